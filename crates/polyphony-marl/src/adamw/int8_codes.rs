//! The 8-bit codes of moments: dynamic quantization (Dettmers et al., 2022, arXiv 2110.02861).
//!
//! A code `c` of `b` bits stands for a point of a grid from 0 to 1. With `y = (c + 1) / 2ᵇ`, and `p` the
//! largest power of two that is at most `y`:
//!
//! `x = p³ (15 y − 14 p) − 16⁻ᵇ`
//!
//! The leading zeros of `c + 1` choose one of `b` intervals, which end at powers of 16. The other bits divide
//! it evenly. Each interval has twice as many points as the one below. The second moment, which is never
//! negative, has codes of 8 bits; the first has 7 bits and a sign.
//!
//! Departures from the paper, and why:
//!
//! - Intervals end at powers of 16, not of 10. A code is computed from the bits of a float then, eight or
//!   sixteen at a time, and a search in a table would take longer than all other work on a weight. Codes also
//!   reach down further: to 4e-9 of the maximum for the second moment, whose range is the square of the first's.
//! - Rounding is random, so that the mean over many steps is the exact value. A step changes the second moment
//!   by a fraction `1 − β₂`, which is less than the distance of two codes. Rounding to the nearest code would
//!   drop every such change.
//! - A second moment above 0 never becomes 0, because the step divides by its root.

/// Bits of a code of the first moment, without its sign.
pub(super) const FIRST: u32 = 7;

/// Bits of a code of the second moment.
pub(super) const SECOND: u32 = 8;

/// The bits of a random number that decides how a value is rounded.
const DITHER_BITS: u32 = 15;

/// The lowest bit of a float's exponent.
const EXPONENT: u32 = 1 << 23;

/// `16⁻ᵇ`: what is added to values, so that the largest power of 16 below any of them is in range.
const fn offset<const BITS: u32>() -> f32 {
    1.0 / (1_u64 << (4 * BITS)) as f32
}

/// The grid point of a code. It is exactly 0 for the lowest code, and 1 for the highest.
#[inline(always)]
pub(super) fn grid<const BITS: u32>(code: f32) -> f32 {
    let unit = 1.0 / (1_u32 << BITS) as f32;
    let y = code.mul_add(unit, unit);
    let p = f32::from_bits(y.to_bits() & (255 * EXPONENT));
    (p * p * p).mul_add(y.mul_add(15.0, -14.0 * p), -offset::<BITS>())
}

/// The code of one of the two grid points around `magnitude · inverse`, which is cut off at 1. Over all
/// dithers, from 0 to below 2¹⁵, the mean of the grid point is this value.
#[inline(always)]
pub(super) fn code<const BITS: u32>(magnitude: f32, inverse: f32, dither: u32) -> u32 {
    let x = magnitude.mul_add(inverse, offset::<BITS>());
    // Replaces NaN too.
    let x = if x < 1.0 { x } else { 1.0 };
    // 2 · 16ʲ, for the largest power 16ʲ that is at most `x`: its exponent is a multiple of 4.
    let knot = x.to_bits().wrapping_add(EXPONENT) & !(4 * EXPONENT - 1);
    let inverse_knot = f32::from_bits((255 * EXPONENT).wrapping_sub(knot));
    // 2ʲ, in units of 2⁻¹⁵ codes.
    let p = f32::from_bits((knot >> 2).wrapping_add((95 + DITHER_BITS + BITS) * EXPONENT));
    let within = (x * inverse_knot).mul_add(1.0 / 15.0, 14.0 / 15.0);
    // A float above 2²³ has no fraction, so the addition rounds and puts a whole number into the lowest bits.
    let fixed = p.mul_add(within, (EXPONENT - (1 << DITHER_BITS)) as f32);
    (fixed.to_bits().wrapping_add(dither) >> DITHER_BITS) & 255
}

/// The dithers of a block's values, from a random start: multiples of the golden ratio, which spread evenly.
#[derive(Clone, Copy)]
pub(super) struct Dithers(pub(super) u32);

impl Dithers {
    #[inline(always)]
    pub(super) fn next(&mut self) -> u32 {
        let dither = self.0 >> (32 - DITHER_BITS);
        self.0 = self.0.wrapping_add(0x9e37_79b1);
        dither
    }
}

/// The dithers of both moments, for a step and a block of a weight (SplitMix64; Steele et al., 2014).
pub(super) fn dithers(step: u64, block: u64) -> [Dithers; 2] {
    let mut mixed = (step << 40 ^ block).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^= mixed >> 31;
    [Dithers(mixed as u32), Dithers((mixed >> 32) as u32)]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The grid points of all codes, in the order of the codes.
    fn grid_points<const BITS: u32>() -> Vec<f32> {
        (0..1 << BITS)
            .map(|code| grid::<BITS>(code as f32))
            .collect()
    }

    fn check_grid<const BITS: u32>() {
        let points = grid_points::<BITS>();
        assert_eq!((points[0], points[points.len() - 1]), (0.0, 1.0));
        assert!(points.is_sorted_by(|low, high| low < high), "{points:?}");
        // The highest interval has half of the codes, and begins at 1/16.
        let half = points[points.len() / 2 - 1];
        assert!((half - 1.0 / 16.0).abs() < 1e-6, "{half}");
        for (code, &point) in points.iter().enumerate() {
            let middle = 1 << (DITHER_BITS - 1);
            assert_eq!(super::code::<BITS>(point, 1.0, middle), code as u32);
        }
    }

    #[test]
    fn codes_are_the_points_of_a_grid_from_0_to_1() {
        check_grid::<FIRST>();
        check_grid::<SECOND>();
    }

    /// The means over all dithers, of values between grid points and on them.
    fn check_mean<const BITS: u32>() {
        let points = grid_points::<BITS>();
        for step in 0..=400 {
            let value = (step as f32 / 400.0).powi(4);
            let codes = (0..1 << DITHER_BITS).map(|dither| code::<BITS>(value, 1.0, dither));
            let sum: f64 = codes.map(|code| f64::from(points[code as usize])).sum();
            let mean = sum / f64::from(1 << DITHER_BITS);
            let error = (mean - f64::from(value)).abs();
            // Dithers are whole numbers, so probabilities are multiples of 2⁻¹⁵.
            let resolution = f64::from(points[1]) / f64::from(1 << DITHER_BITS);
            let tolerance = 1e-4 * f64::from(value) + resolution;
            assert!(error <= tolerance, "{value}: {mean}");
        }
    }

    #[test]
    fn rounding_does_not_change_the_mean() {
        check_mean::<FIRST>();
        check_mean::<SECOND>();
    }

    #[test]
    fn values_that_are_not_finite_have_the_highest_code() {
        for value in [f32::NAN, f32::INFINITY] {
            for dither in [0, (1 << DITHER_BITS) - 1] {
                assert_eq!(code::<FIRST>(value, 1.0, dither), 127);
                assert_eq!(code::<SECOND>(value, 1.0, dither), 255);
            }
        }
    }

    #[test]
    fn dithers_spread_evenly_and_differ_between_steps_and_blocks() {
        let starts: std::collections::HashSet<[u32; 2]> = (1..50)
            .flat_map(|step| (0..50).map(move |block| dithers(step, block).map(|start| start.0)))
            .collect();
        assert_eq!(starts.len(), 49 * 50);
        let [mut start, _] = dithers(3, 4);
        let mut sorted: Vec<u32> = (0..2048).map(|_| start.next()).collect();
        sorted.sort_unstable();
        let widest = sorted.windows(2).map(|pair| pair[1] - pair[0]).max();
        assert!(widest < Some(3 * (1 << DITHER_BITS) / 2048), "{widest:?}");
    }

    proptest! {
        #[test]
        fn rounding_goes_to_a_neighbour_and_keeps_the_order(
            low in 0.0..=1.0f32,
            high in 0.0..=1.0f32,
            dither in 0u32..1 << DITHER_BITS,
        ) {
            let points = grid_points::<SECOND>();
            let (low, high) = if low <= high { (low, high) } else { (high, low) };
            let codes = [low, high].map(|value| code::<SECOND>(value, 1.0, dither) as usize);
            prop_assert!(codes[0] <= codes[1]);
            for (value, code) in [low, high].into_iter().zip(codes) {
                // Values are computed with a relative error of 1e-6.
                let above = points.get(code + 1).copied().unwrap_or(1.0) * 1.000_001;
                let below = points[code.saturating_sub(1)] * 0.999_999;
                prop_assert!((below..=above).contains(&value), "{value} became {}", points[code]);
            }
            prop_assert_eq!(code::<SECOND>(0.0, 1.0, dither), 0);
            prop_assert_eq!(code::<SECOND>(1.0, 1.0, dither), 255);
        }
    }
}
