//! Token ids to embeddings and logits to token ids, without leaving the device.
//!
//! Tokens are drawn as on the host (`generation/draw.rs`): by id if nothing is cut off, otherwise in order of falling
//! probability. Where the host sorts, the kernel searches: the bits of a float, suitably changed, are ordered as the
//! floats are, and the sum of the weights of all logits from a threshold up only falls when the threshold rises. So
//! 16 passes, each of which finds two bits of the threshold, find the set of most likely tokens that is just large
//! enough. Sums have 32 bits here and 64 there, so that a random number very close to a border of two tokens may
//! give the other one.

use cubecl::prelude::*;

use super::{CubeTensor, attend::RowState, cube_max, cube_min, cube_sum, cubes_of_units, units};
use crate::Sampling;

/// Units of a cube that samples. WebGPU allows 256.
const SAMPLING_UNITS: usize = 1024;

/// Looks up the embedding of each row's last token.
///
/// # Shapes
/// `R` rows, `V` tokens, `D` numbers:
/// - table `[V, D]`, tokens `[R]`, output `[R, D]`
pub(crate) fn embed(
    table: &CubeTensor,
    tokens: &CubeTensor,
    output: &CubeTensor,
    rows: usize,
    scale: f32,
) {
    let [_, width] = table.meta.shape().dims();
    look_up::launch(
        &table.client,
        cubes_of_units(rows * width),
        units(),
        table.clone().into_buffer_arg(),
        tokens.clone().into_buffer_arg(),
        output.clone().into_buffer_arg(),
        (rows * width) as u32,
        scale,
        width,
    );
}

#[cube(launch)]
fn look_up(
    table: &[f32],
    tokens: &[u32],
    output: &mut [f32],
    numbers: u32,
    scale: f32,
    #[comptime] width: usize,
) {
    let mut number = ABSOLUTE_POS;
    while number < numbers as usize {
        let token = tokens[number / width] as usize;
        output[number] = table[token * width + number % width] * scale;
        number += CUBE_COUNT * CUBE_DIM as usize;
    }
}

/// Draws the next token of each row, and moves its [`RowState`] on.
///
/// # Shapes
/// `R` rows, `V` tokens, `C` slots of `N` tokens, `B` passes between two readings:
pub(crate) struct Sample<'a> {
    /// `[R, V]`
    pub(crate) logits: &'a CubeTensor,
    /// For each slot the random number of each token, `[C, N + 1]`, below 1.
    pub(crate) uniforms: &'a CubeTensor,
    /// `[R, 4]`
    pub(crate) state: &'a CubeTensor,
    /// The last token of each row, `[R]`.
    pub(crate) tokens: &'a CubeTensor,
    /// The tokens of the last passes, `[B, R]`.
    pub(crate) drawn: &'a CubeTensor,
    /// Their log-probabilities under the untruncated distribution, `[B, R]`.
    pub(crate) logprobs: &'a CubeTensor,
    pub(crate) rows: usize,
    pub(crate) sampling: &'a Sampling,
}

/// What is cut off, as the kernel is compiled for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Draw {
    MostLikely,
    Any,
    Truncated { top_p: bool, top_k: bool },
}

impl Sample<'_> {
    pub(crate) fn launch(self) {
        let [_, vocabulary] = self.logits.meta.shape().dims();
        let [_, positions] = self.uniforms.meta.shape().dims();
        let [passes, _] = self.drawn.meta.shape().dims();
        let top_k = self.sampling.top_k.filter(|&k| k < vocabulary);
        let draw = match self.sampling {
            Sampling {
                temperature: 0.0, ..
            } => Draw::MostLikely,
            sampling if !sampling.truncates() => Draw::Any,
            sampling => Draw::Truncated {
                top_p: sampling.top_p < 1.0,
                top_k: top_k.is_some(),
            },
        };
        sample::launch(
            &self.logits.client,
            CubeCount::new_1d(self.rows as u32),
            CubeDim::new_1d(SAMPLING_UNITS as u32),
            self.logits.clone().into_buffer_arg(),
            self.uniforms.clone().into_buffer_arg(),
            self.state.clone().into_buffer_arg(),
            self.tokens.clone().into_buffer_arg(),
            self.drawn.clone().into_buffer_arg(),
            self.logprobs.clone().into_buffer_arg(),
            vocabulary as u32,
            positions as u32,
            passes as u32,
            1.0 / self.sampling.scoring_temperature(),
            self.sampling.top_p,
            top_k.unwrap_or(0) as f32,
            draw,
            SAMPLING_UNITS,
        );
    }
}

#[cube(launch)]
fn sample(
    logits: &[f32],
    uniforms: &[f32],
    state: &mut [u32],
    tokens: &mut [u32],
    drawn: &mut [u32],
    logprobs: &mut [f32],
    vocabulary: u32,
    positions: u32,
    passes: u32,
    inverse_temperature: f32,
    top_p: f32,
    top_k: f32,
    #[comptime] draw: Draw,
    #[comptime] units: usize,
) {
    let unit = UNIT_POS as usize;
    let row = CUBE_POS;
    let vocabulary = vocabulary as usize;
    let own = &logits[row * vocabulary..(row + 1) * vocabulary];
    let slot = state[row * comptime!(RowState::NUMBERS) + 2] as usize;
    let filled = state[row * comptime!(RowState::NUMBERS) + 3] as usize;
    // The first token was drawn from the logits of the prompt.
    let uniform = uniforms[slot * positions as usize + filled + 1];

    let mut parts = Shared::<[f32]>::new_slice(units);
    let mut ids = Shared::<[u32]>::new_slice(units);
    let mut max = f32::new(-3.0e38);
    let mut i = unit;
    while i < vocabulary {
        max = f32::max(max, own[i]);
        i += units;
    }
    let max = cube_max(max, &mut parts, units);
    let mut sum = 0.0f32;
    i = unit;
    while i < vocabulary {
        sum += ((own[i] - max) * inverse_temperature).exp();
        i += units;
    }
    let total = cube_sum(sum, &mut parts, units);

    let id = if comptime!(draw == Draw::MostLikely) {
        nth_with_key(own, key(max), 0.0f32.runtime(), &mut parts, &mut ids, units)
    } else if comptime!(draw == Draw::Any) {
        draw_by_id(
            own,
            max,
            inverse_temperature,
            uniform,
            &mut parts,
            &mut ids,
            units,
        )
    } else {
        let numbers = (total, uniform, top_p, top_k);
        draw_truncated(
            own,
            max,
            inverse_temperature,
            numbers,
            &mut parts,
            &mut ids,
            draw,
            units,
        )
    };
    // If logits are not numbers, no token is found, and the log-probability tells.
    let id = u32::min(id, vocabulary as u32 - 1);
    if unit == 0 {
        let at = filled % passes as usize * CUBE_COUNT + row;
        drawn[at] = id;
        logprobs[at] = (own[id as usize] - max) * inverse_temperature - total.ln();
        tokens[row] = id;
        state[row * comptime!(RowState::NUMBERS) + 3] = filled as u32 + 1;
    }
}

/// The bits of a float, changed so that they are ordered as floats are.
#[cube]
fn key(value: f32) -> u32 {
    let bits = u32::reinterpret(value);
    let mut key = bits | 0x8000_0000u32;
    if bits >= 0x8000_0000u32 {
        key = !bits;
    }
    key
}

/// The float with this key.
#[cube]
fn value_of(key: u32) -> f32 {
    let mut bits = key & 0x7fff_ffffu32;
    if key < 0x8000_0000u32 {
        bits = !key;
    }
    f32::reinterpret(bits)
}

/// The token with this key that comes after `skipped` others with this key, or the last one with it; `u32::MAX` if there
/// is none.
#[cube]
fn nth_with_key(
    logits: &[f32],
    wanted: u32,
    skipped: f32,
    parts: &mut [f32],
    ids: &mut [u32],
    #[comptime] units: usize,
) -> u32 {
    let unit = UNIT_POS as usize;
    let stretch = logits.len().div_ceil(units);
    let mut i = usize::min(unit * stretch, logits.len());
    let end = usize::min(i + stretch, logits.len());
    let mut count = 0.0f32.runtime();
    while i < end {
        if key(logits[i]) == wanted {
            count += 1.0f32;
        }
        i += 1;
    }
    parts[unit] = count;
    sync_cube();
    let mut id = u32::MAX.runtime();
    if unit == 0 {
        let (found, before) = stretch_of(&*parts, skipped, units);
        let mut seen = before;
        i = found * stretch;
        let end = usize::min(i + stretch, logits.len());
        while i < end && seen <= skipped {
            if key(logits[i]) == wanted {
                id = i as u32;
                seen += 1.0f32;
            }
            i += 1;
        }
    }
    cube_min(id, ids, units)
}

/// The unit at whose number the sum of the units' numbers passes a threshold, or the last one whose number is not zero;
/// and the sum of the numbers before it.
#[cube]
fn stretch_of(numbers: &[f32], threshold: f32, #[comptime] units: usize) -> (usize, f32) {
    let mut sum = 0.0f32.runtime();
    let mut found = 0usize.runtime();
    let mut before = 0.0f32.runtime();
    let mut passed = false.runtime();
    for unit in 0..units {
        if !passed && numbers[unit] > 0.0f32 {
            found = unit;
            before = sum;
            sum += numbers[unit];
            passed = sum > threshold;
        }
    }
    (found, before)
}

/// The token at which the sum of weights in order of the ids passes `uniform` times its total.
#[cube]
fn draw_by_id(
    logits: &[f32],
    max: f32,
    inverse_temperature: f32,
    uniform: f32,
    parts: &mut [f32],
    ids: &mut [u32],
    #[comptime] units: usize,
) -> u32 {
    let unit = UNIT_POS as usize;
    let stretch = logits.len().div_ceil(units);
    let start = usize::min(unit * stretch, logits.len());
    let end = usize::min(start + stretch, logits.len());
    let mut sum = 0.0f32;
    let mut i = start;
    while i < end {
        sum += ((logits[i] - max) * inverse_temperature).exp();
        i += 1;
    }
    parts[unit] = sum;
    sync_cube();
    let mut id = u32::MAX.runtime();
    if unit == 0 {
        let mut total = 0.0f32.runtime();
        for other in 0..units {
            total += parts[other];
        }
        let threshold = uniform * total;
        let (found, before) = stretch_of(&*parts, threshold, units);
        let mut sum = before;
        let mut passed = false.runtime();
        let end = usize::min((found + 1) * stretch, logits.len());
        i = found * stretch;
        while i < end && !passed {
            let weight = ((logits[i] - max) * inverse_temperature).exp();
            if weight > 0.0f32 {
                id = i as u32;
                sum += weight;
                passed = sum > threshold;
            }
            i += 1;
        }
    }
    cube_min(id, ids, units)
}

/// The token at which the sum of weights in order of falling logits passes `uniform` times that of all tokens that
/// top-k and top-p keep. `numbers` are the sum of all weights, the random number, top-p and top-k.
#[cube]
fn draw_truncated(
    logits: &[f32],
    max: f32,
    inverse_temperature: f32,
    numbers: (f32, f32, f32, f32),
    parts: &mut [f32],
    ids: &mut [u32],
    #[comptime] draw: Draw,
    #[comptime] units: usize,
) -> u32 {
    let (total, uniform, top_p, top_k) = numbers;
    let mut kept = total;
    if comptime!(matches!(draw, Draw::Truncated { top_k: true, .. })) {
        let last = last_of_set(
            logits,
            max,
            inverse_temperature,
            top_k,
            parts,
            false,
            true,
            units,
        );
        let count = sum_above(logits, max, inverse_temperature, last, parts, true, units);
        let sum = sum_above(logits, max, inverse_temperature, last, parts, false, units);
        let weight = ((value_of(last) - max) * inverse_temperature).exp();
        kept = sum + (top_k - count) * weight;
    }
    if comptime!(matches!(draw, Draw::Truncated { top_p: true, .. })) {
        let enough = top_p * kept;
        let last = last_of_set(
            logits,
            max,
            inverse_temperature,
            enough,
            parts,
            false,
            false,
            units,
        );
        let sum = sum_above(logits, max, inverse_temperature, last, parts, false, units);
        let weight = ((value_of(last) - max) * inverse_temperature).exp();
        // Tokens that are as likely as the last one are kept only as far as they are needed.
        let needed = f32::max(((enough - sum) / weight).ceil(), 1.0f32.runtime());
        kept = f32::min(kept, sum + needed * weight);
    }
    let threshold = uniform * kept;
    let last = last_of_set(
        logits,
        max,
        inverse_temperature,
        threshold,
        parts,
        true,
        false,
        units,
    );
    let sum = sum_above(logits, max, inverse_temperature, last, parts, false, units);
    let weight = ((value_of(last) - max) * inverse_temperature).exp();
    let skipped = ((threshold - sum) / weight).floor();
    nth_with_key(logits, last, skipped, parts, ids, units)
}

/// The key of the last token of the smallest set of most likely tokens whose sum of weights, or number of tokens, is at
/// least `target`, or above it if `strict`.
#[cube]
fn last_of_set(
    logits: &[f32],
    max: f32,
    inverse_temperature: f32,
    target: f32,
    parts: &mut [f32],
    #[comptime] strict: bool,
    #[comptime] counted: bool,
    #[comptime] units: usize,
) -> u32 {
    let mut prefix = 0u32.runtime();
    let mut step = comptime!(1u32 << 30).runtime();
    while step > 0 {
        let mut sums = Array::<f32>::new(3usize);
        #[unroll]
        for digit in 0..3usize {
            sums[digit] = 0.0f32;
        }
        let mut i = UNIT_POS as usize;
        while i < logits.len() {
            let logit = logits[i];
            let own = key(logit);
            let mut weight = 1.0f32.runtime();
            if !counted {
                weight = ((logit - max) * inverse_temperature).exp();
            }
            #[unroll]
            for digit in 0..3usize {
                if own >= prefix + comptime!(digit as u32 + 1) * step {
                    sums[digit] += weight;
                }
            }
            i += units;
        }
        let start = prefix;
        #[unroll]
        for digit in 0..3usize {
            let sum = cube_sum(sums[digit], parts, units);
            let mut enough = sum >= target;
            if strict {
                enough = sum > target;
            }
            if enough {
                prefix = start + comptime!(digit as u32 + 1) * step;
            }
        }
        step /= 4;
    }
    prefix
}

/// The sum of weights, or the number, of the tokens whose key is above `last`.
#[cube]
fn sum_above(
    logits: &[f32],
    max: f32,
    inverse_temperature: f32,
    last: u32,
    parts: &mut [f32],
    #[comptime] counted: bool,
    #[comptime] units: usize,
) -> f32 {
    let mut sum = 0.0f32;
    let mut i = UNIT_POS as usize;
    while i < logits.len() {
        let logit = logits[i];
        if key(logit) > last {
            if counted {
                sum += 1.0f32;
            } else {
                sum += ((logit - max) * inverse_temperature).exp();
            }
        }
        i += units;
    }
    cube_sum(sum, parts, units)
}
