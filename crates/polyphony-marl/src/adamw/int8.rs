//! Moments of 8 bits: a code per value (`int8_codes.rs`), and the absolute maximum of each block of values.
//!
//! A step decodes a block, updates it like 32-bit floats, and encodes it again, while it is in the cache. Blocks
//! are independent of each other, so the result does not depend on the number of threads.

use std::sync::Arc;

use polyphony_model::{TensorSpec, vectorized};
use rayon::prelude::*;

use super::{
    coefficients::SingleCoefficients,
    int8_codes::{Dithers, FIRST, SECOND, code, dithers, grid},
};
use crate::{
    MarlError,
    saved_state::{StateTensor, StateTensors, check_count},
};

/// Values that share an absolute maximum.
const BLOCK: usize = 2048;

/// Blocks that a thread processes at a time.
const CHUNK_BLOCKS: usize = 32;

/// The smallest maximum of a block that is not all zeros. It keeps all grid points away from floats that have
/// lost digits because they are near 0.
const SMALLEST_MAXIMUM: f32 = 1.0 / (1_u128 << 90) as f32;

/// Bytes of both moments of this many values.
pub(super) fn bytes(values: u64) -> u64 {
    let maxima = values.div_ceil(BLOCK as u64) * size_of::<f32>() as u64;
    2_u64.saturating_mul(values.saturating_add(maxima))
}

/// Both moments of a weight.
#[derive(Clone, Debug)]
pub(super) struct Int8Moments {
    first: Codes,
    second: Codes,
}

/// One moment of a weight.
#[derive(Clone, Debug)]
struct Codes {
    /// One per value. Those of the first moment are signed. They are shared while a checkpoint is written.
    codes: Arc<[u8]>,
    /// The largest absolute value of each block.
    maxima: Arc<[f32]>,
}

impl Codes {
    fn zeros(values: usize) -> Self {
        Self {
            codes: vec![0; values].into(),
            maxima: vec![0.0; values.div_ceil(BLOCK)].into(),
        }
    }

    /// Its codes and maxima, in parts of [`CHUNK_BLOCKS`] blocks.
    fn chunks(&mut self) -> impl IndexedParallelIterator<Item = (&mut [u8], &mut [f32])> {
        let codes = Arc::make_mut(&mut self.codes).par_chunks_mut(CHUNK_BLOCKS * BLOCK);
        codes.zip(Arc::make_mut(&mut self.maxima).par_chunks_mut(CHUNK_BLOCKS))
    }

    fn tensors(&self, name: String, weight: &TensorSpec) -> [(TensorSpec, StateTensor); 2] {
        let [codes, maxima] = specs(name, weight);
        [
            (codes, StateTensor::Bytes(self.codes.clone())),
            (maxima, StateTensor::from(&self.maxima[..])),
        ]
    }

    fn read(
        name: String,
        weight: &TensorSpec,
        tensors: &dyn StateTensors,
    ) -> Result<Self, MarlError> {
        let [codes_spec, maxima_spec] = specs(name, weight);
        let codes = tensors.bytes(&codes_spec)?;
        check_count(&codes_spec, codes.len())?;
        let maxima = tensors.numbers(&maxima_spec)?;
        check_count(&maxima_spec, maxima.len())?;
        Ok(Self {
            codes: codes.into(),
            maxima: maxima.into(),
        })
    }
}

/// The codes and the maxima of the moment `name` of a weight in a saved state.
fn specs(name: String, weight: &TensorSpec) -> [TensorSpec; 2] {
    let blocks = weight.shape.iter().product::<usize>().div_ceil(BLOCK);
    let maxima = TensorSpec {
        name: format!("{name}.block_maxima"),
        shape: vec![blocks],
    };
    let shape = weight.shape.clone();
    [TensorSpec { name, shape }, maxima]
}

impl Int8Moments {
    pub(super) fn zeros(values: usize) -> Self {
        Self {
            first: Codes::zeros(values),
            second: Codes::zeros(values),
        }
    }

    /// Its tensors in a saved state. `names` are those of the two moments.
    pub(super) fn tensors(
        &self,
        names: [String; 2],
        weight: &TensorSpec,
    ) -> Vec<(TensorSpec, StateTensor)> {
        let [first, second] = names;
        let tensors = [
            self.first.tensors(first, weight),
            self.second.tensors(second, weight),
        ];
        tensors.into_iter().flatten().collect()
    }

    /// The moments of a saved state.
    ///
    /// # Errors
    /// If a tensor cannot be read or has the wrong number of values.
    pub(super) fn read(
        names: [String; 2],
        weight: &TensorSpec,
        tensors: &dyn StateTensors,
    ) -> Result<Self, MarlError> {
        let [first, second] = names.map(|name| Codes::read(name, weight, tensors));
        Ok(Self {
            first: first?,
            second: second?,
        })
    }

    /// The weight's step of this number, counted from 1.
    pub(super) fn step(
        &mut self,
        weight: &mut [f32],
        gradient: &[f32],
        step: u64,
        coefficients: SingleCoefficients,
    ) {
        let weights = weight.par_chunks_mut(CHUNK_BLOCKS * BLOCK);
        let gradients = gradient.par_chunks(CHUNK_BLOCKS * BLOCK);
        let moments = self.first.chunks().zip(self.second.chunks());
        let chunks = weights.zip(gradients).zip(moments).enumerate();
        chunks.for_each(|(chunk, ((weights, gradients), (mut first, mut second)))| {
            vectorized(
                #[inline(always)]
                || {
                    let mut values = [[0.0; BLOCK]; 2];
                    let blocks = weights.chunks_mut(BLOCK).zip(gradients.chunks(BLOCK));
                    let [first, second] = [&mut first, &mut second]
                        .map(|(codes, maxima)| codes.chunks_mut(BLOCK).zip(maxima.iter_mut()));
                    for (index, ((w, g), (m, v))) in blocks.zip(first.zip(second)).enumerate() {
                        let block = chunk * CHUNK_BLOCKS + index;
                        let dithers = dithers(step, block as u64);
                        let [m_values, v_values] = values.each_mut().map(|v| &mut v[..g.len()]);
                        decode_first(m.0, *m.1, m_values);
                        decode_second(v.0, *v.1, v_values);
                        coefficients.step(w, g, m_values, v_values);
                        *m.1 = encode_first(m_values, dithers[0], m.0);
                        *v.1 = encode_second(v_values, dithers[1], v.0);
                    }
                },
            );
        });
    }
}

#[inline(always)]
fn decode_first(codes: &[u8], maximum: f32, values: &mut [f32]) {
    for (value, code) in values.iter_mut().zip(codes) {
        let code = f32::from(code.cast_signed());
        *value = (grid::<FIRST>(code.abs()) * maximum).copysign(code);
    }
}

#[inline(always)]
fn decode_second(codes: &[u8], maximum: f32, values: &mut [f32]) {
    for (value, code) in values.iter_mut().zip(codes) {
        *value = grid::<SECOND>(f32::from(*code)) * maximum;
    }
}

/// Encodes a block of the first moment, and returns its maximum.
#[inline(always)]
fn encode_first(values: &[f32], mut dithers: Dithers, codes: &mut [u8]) -> f32 {
    let maximum = maximum(values);
    let inverse = inverse(maximum);
    for (value, target) in values.iter().zip(codes) {
        let magnitude = code::<FIRST>(value.abs(), inverse, dithers.next());
        // All bits are the sign's. The two's complement of a negative code follows from them.
        let sign = (value.to_bits().cast_signed() >> 31).cast_unsigned();
        *target = (magnitude ^ sign).wrapping_sub(sign) as u8;
    }
    maximum
}

/// Encodes a block of the second moment, and returns its maximum.
#[inline(always)]
fn encode_second(values: &[f32], mut dithers: Dithers, codes: &mut [u8]) -> f32 {
    let maximum = maximum(values);
    let inverse = inverse(maximum);
    for (value, target) in values.iter().zip(codes) {
        // Only 0 itself has the lowest code.
        let lowest = value.to_bits().min(1);
        *target = code::<SECOND>(*value, inverse, dithers.next()).max(lowest) as u8;
    }
    maximum
}

/// The largest absolute value, as a finite number; 0 if all values are 0. The bits of positive floats have the
/// same order as the floats, and integers can be compared several at a time.
#[inline(always)]
fn maximum(values: &[f32]) -> f32 {
    let bits = values.iter().map(|value| value.abs().to_bits());
    match bits.fold(0, u32::max) {
        0 => 0.0,
        largest => f32::from_bits(largest.clamp(SMALLEST_MAXIMUM.to_bits(), f32::MAX.to_bits())),
    }
}

/// `1 / maximum`; 0 if all values are 0.
#[inline(always)]
fn inverse(maximum: f32) -> f32 {
    match maximum {
        0.0 => 0.0,
        _ => maximum.recip(),
    }
}

#[cfg(test)]
mod tests;
