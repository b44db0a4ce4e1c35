//! Root-mean-square normalization: `y = (o + w) · x / √(mean(x²) + ε)`, with the offset `o` 0 or 1.

use burn::tensor::{DType, Tensor};
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::host::{HostOp, SavedTensors, apply, operand};

/// Rows that a thread takes at once.
const CHUNK_ROWS: usize = 32;

/// Every row divided by its root mean square, times a weight plus `offset`.
///
/// # Shapes
/// - input and output `[T, D]`, weight `[D]`
pub(crate) fn rms_norm(
    input: Tensor<2>,
    weight: Tensor<1>,
    epsilon: f64,
    offset: f32,
) -> Tensor<2> {
    let shape = input.dims();
    match (operand(&input), operand(&weight)) {
        (Some(x), Some(w)) => apply(
            RmsNorm {
                epsilon: epsilon as f32,
                offset,
            },
            [x, w],
            shape,
        ),
        _ => rms_norm_in_burn(input, weight, epsilon, offset),
    }
}

pub(super) fn rms_norm_in_burn(
    input: Tensor<2>,
    weight: Tensor<1>,
    epsilon: f64,
    offset: f32,
) -> Tensor<2> {
    // Squares are summed in 32 bits, even if the weights are smaller floats.
    let dtype = input.dtype();
    let input = input.cast(DType::F32);
    let mean_square = input.clone().square().mean_dim(1);
    let normed = input * (mean_square + epsilon).sqrt().recip();
    match offset {
        0.0 => normed.cast(dtype) * weight.unsqueeze(),
        // The sum would lose bits of the weight in smaller floats.
        offset => (normed * (weight.cast(DType::F32) + offset).unsqueeze()).cast(dtype),
    }
}

#[derive(Clone, Debug)]
struct RmsNorm {
    epsilon: f32,
    /// What is added to the weight.
    offset: f32,
}

impl HostOp<2> for RmsNorm {
    const SAVES: SavedTensors = SavedTensors::Inputs;

    fn forward(&self, [input, weight]: [&[f32]; 2]) -> Vec<f32> {
        let arch = Arch::new();
        let chunk = CHUNK_ROWS * weight.len();
        let mut output = vec![0.0; input.len()];
        output
            .par_chunks_mut(chunk)
            .zip(input.par_chunks(chunk))
            .for_each(|(output, input)| {
                arch.dispatch(Forward {
                    input,
                    weight,
                    epsilon: self.epsilon,
                    offset: self.offset,
                    output,
                });
            });
        output
    }

    fn backward(
        &self,
        [input, weight]: [&[f32]; 2],
        _output: &[f32],
        upstream: &[f32],
        _needs_gradient: [bool; 2],
    ) -> [Vec<f32>; 2] {
        let arch = Arch::new();
        let width = weight.len();
        let chunk = CHUNK_ROWS * width;
        let mut input_gradient = vec![0.0; input.len()];
        let partial_sums: Vec<Vec<f32>> = input_gradient
            .par_chunks_mut(chunk)
            .zip(input.par_chunks(chunk).zip(upstream.par_chunks(chunk)))
            .map(|(input_gradient, (input, upstream))| {
                let mut weight_gradient = vec![0.0; width];
                arch.dispatch(Backward {
                    input,
                    weight,
                    upstream,
                    epsilon: self.epsilon,
                    offset: self.offset,
                    input_gradient,
                    weight_gradient: &mut weight_gradient,
                });
                weight_gradient
            })
            .collect();
        // Chunks are added in their order, so the sum does not depend on the threads.
        let mut weight_gradient = vec![0.0; width];
        for partial_sum in partial_sums {
            weight_gradient
                .iter_mut()
                .zip(partial_sum)
                .for_each(|(sum, value)| *sum += value);
        }
        [input_gradient, weight_gradient]
    }
}

/// `1 / √(mean(x²) + ε)`.
#[inline(always)]
fn inverse_root<S: Simd>(simd: S, row: &[f32], epsilon: f32) -> f32 {
    let (body, rest) = S::as_simd_f32s(row);
    let mut sum = simd.splat_f32s(0.0);
    for x in body {
        sum = simd.mul_add_f32s(*x, *x, sum);
    }
    let rest: f32 = rest.iter().map(|x| x * x).sum();
    let mean = (simd.reduce_sum_f32s(sum) + rest) / row.len() as f32;
    (mean + epsilon).sqrt().recip()
}

struct Forward<'a> {
    input: &'a [f32],
    weight: &'a [f32],
    epsilon: f32,
    offset: f32,
    output: &'a mut [f32],
}

impl WithSimd for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self {
            input,
            weight,
            epsilon,
            offset,
            output,
        } = self;
        let width = weight.len();
        for (x, y) in input
            .chunks_exact(width)
            .zip(output.chunks_exact_mut(width))
        {
            let factor = inverse_root(simd, x, epsilon);
            for ((y, x), w) in y.iter_mut().zip(x).zip(weight) {
                *y = x * factor * (offset + w);
            }
        }
    }
}

struct Backward<'a> {
    input: &'a [f32],
    weight: &'a [f32],
    upstream: &'a [f32],
    epsilon: f32,
    offset: f32,
    input_gradient: &'a mut [f32],
    weight_gradient: &'a mut [f32],
}

impl WithSimd for Backward<'_> {
    type Output = ();

    /// With `f = 1 / √(mean(x²) + ε)`, `v = o + w` and upstream `g`: `∂x = f g v − x f³ mean(g v x)` and
    /// `∂w = Σ g x f`.
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self {
            input,
            weight,
            upstream,
            epsilon,
            offset,
            input_gradient,
            weight_gradient,
        } = self;
        let width = weight.len();
        let rows = input.chunks_exact(width).zip(upstream.chunks_exact(width));
        for ((x, g), x_gradient) in rows.zip(input_gradient.chunks_exact_mut(width)) {
            let factor = inverse_root(simd, x, epsilon);
            for ((slot, x), (g, w)) in x_gradient.iter_mut().zip(x).zip(g.iter().zip(weight)) {
                *slot = g * (offset + w) * x;
            }
            let (body, rest) = S::as_simd_f32s(x_gradient);
            let mut sum = simd.splat_f32s(0.0);
            for product in body {
                sum = simd.add_f32s(sum, *product);
            }
            let total = simd.reduce_sum_f32s(sum) + rest.iter().sum::<f32>();
            let correction = factor * factor * factor * total / width as f32;
            for ((slot, x), (g, w)) in x_gradient.iter_mut().zip(x).zip(g.iter().zip(weight)) {
                *slot = factor * g * (offset + w) - x * correction;
            }
            for ((slot, x), g) in weight_gradient.iter_mut().zip(x).zip(g) {
                *slot += g * x * factor;
            }
        }
    }
}
