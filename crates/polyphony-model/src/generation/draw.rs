//! From logits to a token.
//!
//! A token `v` with logit `z_v` has the weight `w_v = exp((z_v − max z) / temperature)` and the probability
//! `w_v / Σ w`. Two passes over the vocabulary give the largest logit and the sum of weights of each block of
//! logits. After them, only the blocks that can matter are read: the one in which the random number falls, or
//! those that hold the most likely tokens.

use pulp::{Arch, Simd, WithSimd};

use super::sampling::Sampling;
use crate::kernels::{EXP_SERIES, ROUND_TO_INTEGER};

/// A token and its natural log-probability under the temperature-scaled, untruncated distribution.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct SampledToken {
    pub(super) token: u32,
    pub(super) logprob: f32,
}

/// Draws a token. `uniform` lies in `[0, 1)`. If the logits contain NaN or no largest finite number, the
/// log-probability is NaN.
pub(super) fn sample_token(logits: &[f32], sampling: &Sampling, uniform: f64) -> SampledToken {
    let distribution = Distribution::new(logits, sampling.scoring_temperature());
    let uniform = uniform.min(MAX_UNIFORM);
    let token = if distribution.total.is_nan() {
        0
    } else if sampling.temperature == 0.0 {
        distribution.most_likely_token()
    } else if sampling.truncates() {
        distribution.sample_truncated(sampling, uniform)
    } else {
        distribution.sample_by_id(uniform)
    };
    SampledToken {
        token: token as u32,
        logprob: distribution.logprob(logits[token]) as f32,
    }
}

/// Logits per block: few enough that a block is read quickly, many enough that there are few blocks.
const BLOCK: usize = 64;

/// The largest uniform number. Sums of the same weights in another order differ by less than its distance to
/// 1, so a threshold below it is always passed, and always by a token with a positive weight.
const MAX_UNIFORM: f64 = 1.0 - 1e-12;

/// The number of tokens that are first ranked for a nucleus. It is usually much smaller.
const FIRST_RANKED: usize = 64;

/// The factor by which this number grows until the nucleus is complete.
const RANKED_GROWTH: usize = 8;

/// The logits of one row and what two passes over them give.
struct Distribution<'a> {
    logits: &'a [f32],
    /// The largest logit of each block.
    maxima: Vec<f32>,
    weights: Weights,
    /// The sum of the weights of each block.
    sums: Vec<f32>,
    /// The sum of all weights. NaN if a logit is NaN or the largest one is infinite.
    total: f64,
}

impl<'a> Distribution<'a> {
    fn new(logits: &'a [f32], temperature: f32) -> Self {
        let arch = Arch::new();
        let maxima = arch.dispatch(BlockMaxima { logits });
        let max = maxima.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let weights = Weights::new(max, temperature);
        let sums = arch.dispatch(BlockSums { logits, weights });
        let total = sums.iter().copied().map(f64::from).sum();
        Self {
            logits,
            maxima,
            weights,
            sums,
            total,
        }
    }

    /// The log-probability of a token with this logit.
    fn logprob(&self, logit: f32) -> f64 {
        let Weights {
            max, temperature, ..
        } = self.weights;
        (f64::from(logit) - f64::from(max)) / temperature - self.total.ln()
    }

    fn block(&self, index: usize) -> &[f32] {
        let start = index * BLOCK;
        &self.logits[start..self.logits.len().min(start + BLOCK)]
    }

    /// The most likely token, the first one on a tie.
    fn most_likely_token(&self) -> usize {
        let is_max = |logit: &f32| *logit == self.weights.max;
        let block = self.maxima.iter().position(is_max).unwrap_or(0);
        BLOCK * block + self.block(block).iter().position(is_max).unwrap_or(0)
    }

    /// The token at which the sum of weights in order of the ids passes `uniform` times its total.
    fn sample_by_id(&self, uniform: f64) -> usize {
        let threshold = uniform * self.total;
        let (block, sum) = reach(&self.sums, 0.0, |sum| sum > threshold);
        // The sum of a block is rounded. What is left of the random number is therefore taken relative to it.
        let uniform = 1.0 - (sum - threshold) / f64::from(self.sums[block]);
        let weights = self.weights.of_each(self.block(block).to_vec());
        let total: f64 = weights.iter().copied().map(f64::from).sum();
        let threshold = uniform.min(MAX_UNIFORM) * total;
        BLOCK * block + reach(&weights, 0.0, |sum| sum > threshold).0
    }

    /// The token at which the sum of weights in order of falling probability passes `uniform` times that of all
    /// tokens that top-k and top-p keep.
    fn sample_truncated(&self, sampling: &Sampling, uniform: f64) -> usize {
        let top_p = f64::from(sampling.top_p);
        let top_k = sampling.top_k.filter(|&k| k < self.logits.len());
        let mut ranked = match top_k {
            Some(k) => {
                let mut ranked = self.most_likely(k);
                ranked.select_nth_unstable(k - 1);
                ranked.truncate(k);
                ranked
            }
            None => self.most_likely_with_weight(top_p * self.total),
        };
        let mut sum = self.weights.sum(&ranked);
        if sampling.top_p < 1.0 {
            let enough = top_p * top_k.map_or(self.total, |_| sum);
            let (count, nucleus) = self.smallest_set(&mut ranked, |sum| sum >= enough);
            ranked.truncate(count);
            sum = nucleus;
        }
        let threshold = uniform * sum;
        let (count, _) = self.smallest_set(&mut ranked, |sum| sum > threshold);
        ranked[count - 1].id()
    }

    /// At least `count` of the most likely tokens in any order, or all tokens.
    fn most_likely(&self, count: usize) -> Vec<Ranked> {
        if count > self.maxima.len() {
            let tokens = self.logits.iter().enumerate();
            return tokens.map(|(id, &logit)| Ranked::new(id, logit)).collect();
        }
        // At least `count` blocks have a token that reaches the threshold.
        let mut maxima = self.maxima.clone();
        let (_, &mut threshold, _) =
            maxima.select_nth_unstable_by(count - 1, |a, b| b.total_cmp(a));
        let mut ranked = Vec::with_capacity(2 * count);
        for (index, max) in self.maxima.iter().enumerate() {
            if *max >= threshold {
                let tokens = (BLOCK * index..).zip(self.block(index));
                let likely = tokens.filter(|(_, logit)| **logit >= threshold);
                ranked.extend(likely.map(|(id, &logit)| Ranked::new(id, logit)));
            }
        }
        ranked
    }

    /// Enough of the most likely tokens that their weights reach `weight`, or all tokens.
    fn most_likely_with_weight(&self, weight: f64) -> Vec<Ranked> {
        let mut count = FIRST_RANKED;
        loop {
            let ranked = self.most_likely(count);
            if ranked.len() == self.logits.len() || self.weights.sum(&ranked) >= weight {
                return ranked;
            }
            count *= RANKED_GROWTH;
        }
    }

    /// Moves the smallest set of most likely tokens whose sum of weights is `enough` to the front, with the
    /// least likely one of them last. Returns their number and sum.
    fn smallest_set(&self, ranked: &mut [Ranked], enough: impl Fn(f64) -> bool) -> (usize, f64) {
        let (mut start, mut end, mut before) = (0, ranked.len(), 0.0);
        // Halves the part in which the set ends, so that only a block must be sorted.
        while end - start > BLOCK {
            let middle = start.midpoint(end);
            ranked[start..end].select_nth_unstable(middle - start);
            let sum = before + self.weights.sum(&ranked[start..middle]);
            if enough(sum) {
                end = middle;
            } else {
                (start, before) = (middle, sum);
            }
        }
        let part = &mut ranked[start..end];
        part.sort_unstable();
        let logits = part.iter().map(|token| token.logit());
        let (last, sum) = reach(&self.weights.of_each(logits.collect()), before, enough);
        (start + last + 1, sum)
    }
}

/// Adds positive weights to `sum` until it is `enough`. Returns the index of the last one, and the sum.
fn reach(weights: &[f32], mut sum: f64, enough: impl Fn(f64) -> bool) -> (usize, f64) {
    let mut last = 0;
    for (index, &weight) in weights.iter().enumerate() {
        if weight > 0.0 {
            last = index;
            sum += f64::from(weight);
            if enough(sum) {
                break;
            }
        }
    }
    (last, sum)
}

/// A token, ordered by falling logit and then by its id.
///
/// The upper half is the logit, with its bits changed so that they are ordered as integers; the lower half
/// is the id. Integers are sorted much faster than ids that are compared by their logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Ranked(u64);

impl Ranked {
    fn new(id: usize, logit: f32) -> Self {
        Self(u64::from(reverse_positive(logit.to_bits())) << 32 | id as u64)
    }

    fn id(self) -> usize {
        self.0 as u32 as usize
    }

    fn logit(self) -> f32 {
        f32::from_bits(reverse_positive((self.0 >> 32) as u32))
    }
}

/// Makes the bits of numbers rise, as integers, when the numbers fall. Those of negative numbers do so already.
/// The function is its own inverse.
fn reverse_positive(bits: u32) -> u32 {
    if bits >> 31 == 0 {
        bits ^ 0x7fff_ffff
    } else {
        bits
    }
}

/// How logits become weights.
#[derive(Clone, Copy)]
struct Weights {
    max: f32,
    temperature: f64,
    /// `log₂ e / temperature`, and what rounding it to 32 bits leaves.
    factor: f32,
    factor_rest: f32,
}

impl Weights {
    fn new(max: f32, temperature: f32) -> Self {
        let temperature = f64::from(temperature);
        let factor = std::f64::consts::LOG2_E / temperature;
        let factor_rest = factor - f64::from(factor as f32);
        Self {
            max,
            temperature,
            factor: factor as f32,
            factor_rest: factor_rest as f32,
        }
    }

    /// The weights of logits, with a relative error below 1.5e-7; 0 below 2⁻¹²⁶.
    ///
    /// `w = 2ˣ = 2ⁿ · eᵗ`, where `n` is the integer nearest to `x = (z − max z) · factor`, and `t = (x − n) ln 2`.
    /// The function in `kernels/exp.rs` would need `x` as one number, and rounding an `x` of −15 changes `w` by
    /// up to 5e-7. Here the product is rounded only after `n` is subtracted.
    #[inline(always)]
    fn of<S: Simd>(self, simd: S, logits: S::f32s) -> S::f32s {
        let (round, factor) = (
            simd.splat_f32s(ROUND_TO_INTEGER),
            simd.splat_f32s(self.factor),
        );
        let difference = simd.sub_f32s(logits, simd.splat_f32s(self.max));
        let shifted = simd.mul_add_f32s(difference, factor, round);
        let n = simd.sub_f32s(shifted, round);
        let rest = simd.mul_add_f32s(difference, factor, simd.neg_f32s(n));
        let factor_rest = simd.splat_f32s(self.factor_rest);
        let rest = simd.mul_add_f32s(difference, factor_rest, rest);
        let t = simd.mul_f32s(rest, simd.splat_f32s(std::f32::consts::LN_2));
        let [first, coefficients @ ..] = EXP_SERIES;
        let mut series = simd.splat_f32s(first);
        for coefficient in coefficients {
            series = simd.mul_add_f32s(series, t, simd.splat_f32s(coefficient));
        }
        let bias = simd.splat_u32s(127u32.wrapping_sub(ROUND_TO_INTEGER.to_bits()));
        let exponent = simd.add_u32s(simd.transmute_u32s_f32s(shifted), bias);
        let power = simd.wrapping_dyn_shl_u32s(exponent, simd.splat_u32s(23));
        let weight = simd.mul_f32s(series, simd.transmute_f32s_u32s(power));
        // The comparison is false for NaN, so that a NaN logit has the weight NaN.
        let x = simd.mul_f32s(difference, factor);
        let is_zero = simd.less_than_f32s(x, simd.splat_f32s(-126.0));
        simd.select_f32s(is_zero, simd.splat_f32s(0.0), weight)
    }

    /// The weight of each logit.
    fn of_each(self, logits: Vec<f32>) -> Vec<f32> {
        Arch::new().dispatch(WeightOfEach {
            logits,
            weights: self,
        })
    }

    /// The sum of the weights of tokens.
    fn sum(self, ranked: &[Ranked]) -> f64 {
        let weights = self.of_each(ranked.iter().map(|token| token.logit()).collect());
        let (chunks, rest) = weights.as_chunks::<8>();
        // 64 bits, so that the sum hardly depends on the order: see `MAX_UNIFORM`.
        let mut sums = [0.0; 8];
        for chunk in chunks {
            for (sum, weight) in sums.iter_mut().zip(chunk) {
                *sum += f64::from(*weight);
            }
        }
        let rest: f64 = rest.iter().copied().map(f64::from).sum();
        sums.iter().sum::<f64>() + rest
    }
}

/// The largest logit of each block.
struct BlockMaxima<'a> {
    logits: &'a [f32],
}

impl WithSimd for BlockMaxima<'_> {
    type Output = Vec<f32>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Vec<f32> {
        per_block(
            self.logits,
            #[inline(always)]
            |block| {
                let mut max = simd.splat_f32s(f32::NEG_INFINITY);
                for logits in S::as_simd_f32s(block).0 {
                    max = simd.max_f32s(max, *logits);
                }
                simd.reduce_max_f32s(max)
            },
        )
    }
}

/// The sum of the weights of each block.
struct BlockSums<'a> {
    logits: &'a [f32],
    weights: Weights,
}

impl WithSimd for BlockSums<'_> {
    type Output = Vec<f32>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Vec<f32> {
        per_block(
            self.logits,
            #[inline(always)]
            |block| {
                let mut sum = simd.splat_f32s(0.0);
                for logits in S::as_simd_f32s(block).0 {
                    sum = simd.add_f32s(sum, self.weights.of(simd, *logits));
                }
                simd.reduce_sum_f32s(sum)
            },
        )
    }
}

/// A number for each block. The last block is filled up with −∞, which changes neither its largest logit nor
/// its sum of weights.
#[inline(always)]
fn per_block(logits: &[f32], of: impl Fn(&[f32; BLOCK]) -> f32) -> Vec<f32> {
    let (blocks, rest) = logits.as_chunks::<BLOCK>();
    let mut output = vec![0.0; logits.len().div_ceil(BLOCK)];
    for (block, output) in blocks.iter().zip(&mut output) {
        *output = of(block);
    }
    if let Some(output) = output.get_mut(blocks.len()) {
        let mut block = [f32::NEG_INFINITY; BLOCK];
        block[..rest.len()].copy_from_slice(rest);
        *output = of(&block);
    }
    output
}

/// See [`Weights::of_each`].
struct WeightOfEach {
    logits: Vec<f32>,
    weights: Weights,
}

impl WithSimd for WeightOfEach {
    type Output = Vec<f32>;

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) -> Vec<f32> {
        let (vectors, rest) = S::as_mut_simd_f32s(&mut self.logits);
        for logits in vectors {
            *logits = self.weights.of(simd, *logits);
        }
        let weights = self.weights.of(simd, simd.partial_load_f32s(rest));
        simd.partial_store_f32s(rest, weights);
        self.logits
    }
}

#[cfg(test)]
mod tests;
