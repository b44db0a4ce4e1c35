//! The exponential function and the softmax, in a form that compilers turn into vector code.

use super::vectorized;

/// 1.5 · 2²³. Adding it rounds a number to an integer, which is then in the low bits. Subtracting it again turns the
/// integer back into a float.
pub(crate) const ROUND_TO_INTEGER: f32 = 12_582_912.0;

/// The coefficients of the Taylor series of `eˣ`, highest first. These terms suffice for 32 bits if `|x|` is at most
/// `ln 2 / 2`.
pub(crate) const EXP_SERIES: [f32; 8] = [
    1.0 / 5040.0,
    1.0 / 720.0,
    1.0 / 120.0,
    1.0 / 24.0,
    1.0 / 6.0,
    0.5,
    1.0,
    1.0,
];

/// `eˣ` to within two units in the last place; 0 below −87.3, infinite above 88.3, NaN for NaN.
///
/// `eˣ = 2ⁿ · eʳ`, where `n` is the integer nearest to `x / ln 2`, and `eʳ` is computed by its Taylor
/// series. Since `|r| ≤ ln 2 / 2`, eight terms suffice for 32 bits.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    // ln 2 in two parts: the first has few bits, so that its product with `n` is exact.
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let clamped = if x < -87.3 { -87.3 } else { x };
    let clamped = if clamped > 88.3 { 88.3 } else { clamped };
    let shifted = clamped * std::f32::consts::LOG2_E + ROUND_TO_INTEGER;
    let n = shifted - ROUND_TO_INTEGER;
    let r = clamped - n * LN_2_HIGH - n * LN_2_LOW;
    let [mut series, coefficients @ ..] = EXP_SERIES;
    for coefficient in coefficients {
        series = series * r + coefficient;
    }
    let power = shifted
        .to_bits()
        .wrapping_sub(ROUND_TO_INTEGER.to_bits())
        .wrapping_add(127);
    let result = series * f32::from_bits(power.wrapping_shl(23));
    let result = if x < -87.3 { 0.0 } else { result };
    if x > 88.3 { f32::INFINITY } else { result }
}

/// Turns scores into weights that sum to 1.
#[inline(always)]
pub(crate) fn normalize(scores: &mut [f32]) {
    let max = max(scores);
    for score in scores.iter_mut() {
        *score = exp(*score - max);
    }
    let mut sums = [0.0f32; 16];
    let (blocks, rest) = scores.as_chunks::<16>();
    for block in blocks {
        for (sum, weight) in sums.iter_mut().zip(block) {
            *sum += weight;
        }
    }
    let factor = (sums.iter().sum::<f32>() + rest.iter().sum::<f32>()).recip();
    for score in scores.iter_mut() {
        *score *= factor;
    }
}

/// `log Σ exp x` over a row.
pub(crate) fn log_sum_exp(row: &[f32]) -> f32 {
    vectorized(
        #[inline(always)]
        || {
            let max = max(row);
            // `max` does not see NaN, which must not be lost here.
            if max == f32::NEG_INFINITY && row.iter().all(|logit| *logit == max) {
                return max;
            }
            // 16 sums, so that a vector unit can compute them in parallel.
            let mut sums = [0.0f32; 16];
            let (blocks, rest) = row.as_chunks::<16>();
            for block in blocks {
                for (sum, logit) in sums.iter_mut().zip(block) {
                    *sum += exp(logit - max);
                }
            }
            let rest: f32 = rest.iter().map(|logit| exp(logit - max)).sum();
            max + (sums.iter().sum::<f32>() + rest).ln()
        },
    )
}

#[inline(always)]
fn max(row: &[f32]) -> f32 {
    let mut largest = [f32::NEG_INFINITY; 16];
    let (blocks, rest) = row.as_chunks::<16>();
    for block in blocks {
        for (largest, logit) in largest.iter_mut().zip(block) {
            *largest = if logit > largest { *logit } else { *largest };
        }
    }
    largest
        .iter()
        .chain(rest)
        .copied()
        .fold(f32::NEG_INFINITY, f32::max)
}

#[cfg(test)]
mod tests {
    use super::exp;

    #[test]
    fn agrees_with_the_standard_library() {
        let mut x = -87.0f32;
        while x < 88.2 {
            let exact = f64::from(x).exp();
            let error = (f64::from(exp(x)) / exact - 1.0).abs();
            assert!(error < 3e-7, "exp({x}) is off by {error:e}");
            x += 0.0137;
        }
    }

    #[test]
    fn extremes_are_zero_infinity_and_nan() {
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(-200.0), 0.0);
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(100.0), f32::INFINITY);
        assert!(exp(f32::NAN).is_nan());
    }
}
