//! Root-mean-square normalization: `y = (o + w) · x / √(mean(x²) + ε)`, with the offset `o` 0 or 1.

use burn::tensor::{DType, Tensor};
use half::bf16;
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::{
    for_each_chunk,
    host::{Buffer, HostOp, Number, SavedTensors, Values, apply, operand},
};

/// Rows that a thread takes at once.
const CHUNK_ROWS: usize = 32;

/// Every row divided by its root mean square, times a weight plus `offset`, as numbers of type `output`.
///
/// # Shapes
/// - input and output `[T, D]`, weight `[D]`
pub(crate) fn rms_norm(
    input: Tensor<2>,
    weight: Tensor<1>,
    epsilon: f64,
    offset: f32,
    output: DType,
) -> Tensor<2> {
    let shape = input.dims();
    #[cfg(feature = "cube")]
    if let Some(normed) = super::cube::rms_norm(&input, &weight, epsilon, offset, output) {
        return normed;
    }
    match (operand(&input), operand(&weight)) {
        (Some(x), Some(w)) => apply(
            RmsNorm {
                epsilon: epsilon as f32,
                offset,
                output,
            },
            [x, w],
            shape,
        ),
        _ => rms_norm_in_burn(input, weight, epsilon, offset).cast(output),
    }
}

pub(super) fn rms_norm_in_burn(
    input: Tensor<2>,
    weight: Tensor<1>,
    epsilon: f64,
    offset: f32,
) -> Tensor<2> {
    // In smaller floats, the sum of squares and the sum with the weight would lose bits.
    let (dtype, input) = (input.dtype(), input.cast(DType::F32));
    let mean_square = input.clone().square().mean_dim(1);
    let normed = input * (mean_square + epsilon).sqrt().recip();
    let weight = match offset {
        0.0 => weight,
        offset => weight + offset,
    };
    (normed * weight.unsqueeze()).cast(dtype)
}

#[derive(Clone, Debug)]
struct RmsNorm {
    epsilon: f32,
    /// What is added to the weight.
    offset: f32,
    /// The type of the output.
    output: DType,
}

impl HostOp<2> for RmsNorm {
    const SAVES: SavedTensors = SavedTensors::Inputs;

    fn forward(&self, [input, weight]: [Values<'_>; 2]) -> Buffer {
        let weight = f32::slice(weight);
        match (input, self.output) {
            (Values::F32(input), DType::BF16) => self.normalized::<_, bf16>(input, weight),
            (Values::F32(input), _) => self.normalized::<_, f32>(input, weight),
            (Values::Bf16(input), DType::BF16) => self.normalized::<_, bf16>(input, weight),
            (Values::Bf16(input), _) => self.normalized::<_, f32>(input, weight),
        }
    }

    fn backward(
        &self,
        [input, weight]: [Values<'_>; 2],
        _output: Values<'_>,
        upstream: Values<'_>,
        _needs_gradient: [bool; 2],
    ) -> [Buffer; 2] {
        let weight = f32::slice(weight);
        match (input, upstream) {
            (Values::F32(input), Values::F32(g)) => self.gradients(input, weight, g),
            (Values::F32(input), Values::Bf16(g)) => self.gradients(input, weight, g),
            (Values::Bf16(input), Values::F32(g)) => self.gradients(input, weight, g),
            (Values::Bf16(input), Values::Bf16(g)) => self.gradients(input, weight, g),
        }
    }
}

impl RmsNorm {
    fn normalized<T: Number, U: Number>(&self, input: &[T], weight: &[f32]) -> Buffer {
        let arch = Arch::new();
        let chunk = CHUNK_ROWS * weight.len();
        let mut output = vec![U::default(); input.len()];
        for_each_chunk(&mut output, chunk, |index, output| {
            let start = index * chunk;
            arch.dispatch(Forward {
                op: self,
                input: &input[start..start + output.len()],
                weight,
                output,
            });
        });
        U::buffer(output)
    }

    /// The gradients of input and weight.
    fn gradients<T: Number, U: Number>(
        &self,
        input: &[T],
        weight: &[f32],
        upstream: &[U],
    ) -> [Buffer; 2] {
        let arch = Arch::new();
        let width = weight.len();
        let chunk = CHUNK_ROWS * width;
        let mut input_gradient = vec![T::default(); input.len()];
        let partial_sums: Vec<Vec<f32>> = input_gradient
            .par_chunks_mut(chunk)
            .zip(input.par_chunks(chunk).zip(upstream.par_chunks(chunk)))
            .map(|(input_gradient, (input, upstream))| {
                let mut weight_gradient = vec![0.0; width];
                arch.dispatch(Backward {
                    op: self,
                    input,
                    weight,
                    upstream,
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
        [T::buffer(input_gradient), Buffer::F32(weight_gradient)]
    }
}

/// `1 / √(mean(x²) + ε)`, for `x` in `row`.
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

struct Forward<'a, T, U> {
    op: &'a RmsNorm,
    input: &'a [T],
    weight: &'a [f32],
    output: &'a mut [U],
}

impl<T: Number, U: Number> WithSimd for Forward<'_, T, U> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self {
            op,
            input,
            weight,
            output,
        } = self;
        let width = weight.len();
        let mut x = vec![0.0; width];
        for (row, y) in input
            .chunks_exact(width)
            .zip(output.chunks_exact_mut(width))
        {
            let x = T::floats(row, &mut x);
            let factor = inverse_root(simd, x, op.epsilon);
            for ((y, x), w) in y.iter_mut().zip(x).zip(weight) {
                *y = U::round(x * factor * (op.offset + w));
            }
        }
    }
}

struct Backward<'a, T, U> {
    op: &'a RmsNorm,
    input: &'a [T],
    weight: &'a [f32],
    upstream: &'a [U],
    input_gradient: &'a mut [T],
    weight_gradient: &'a mut [f32],
}

impl<T: Number, U: Number> WithSimd for Backward<'_, T, U> {
    type Output = ();

    /// With `f = 1 / √(mean(x²) + ε)`, `v = o + w` and upstream `g`: `∂x = f g v − x f³ mean(g v x)` and
    /// `∂w = Σ g x f`.
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self {
            op,
            input,
            weight,
            upstream,
            input_gradient,
            weight_gradient,
        } = self;
        let width = weight.len();
        let [mut x, mut g, mut products] = [(); 3].map(|()| vec![0.0; width]);
        let rows = input.chunks_exact(width).zip(upstream.chunks_exact(width));
        for ((row, upstream), gradient) in rows.zip(input_gradient.chunks_exact_mut(width)) {
            let x = T::floats(row, &mut x);
            let g = U::floats(upstream, &mut g);
            let factor = inverse_root(simd, x, op.epsilon);
            for ((slot, x), (g, w)) in products.iter_mut().zip(x).zip(g.iter().zip(weight)) {
                *slot = g * (op.offset + w) * x;
            }
            let (body, rest) = S::as_simd_f32s(&products);
            let mut sum = simd.splat_f32s(0.0);
            for product in body {
                sum = simd.add_f32s(sum, *product);
            }
            let total = simd.reduce_sum_f32s(sum) + rest.iter().sum::<f32>();
            let correction = factor * factor * factor * total / width as f32;
            for ((slot, x), (g, w)) in gradient.iter_mut().zip(x).zip(g.iter().zip(weight)) {
                *slot = T::round(factor * g * (op.offset + w) - x * correction);
            }
            for ((slot, x), g) in weight_gradient.iter_mut().zip(x).zip(g) {
                *slot += g * x * factor;
            }
        }
    }
}
