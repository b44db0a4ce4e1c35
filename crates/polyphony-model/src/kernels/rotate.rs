//! Rotating queries and keys by their positions.

use burn::tensor::{DType, Tensor};
use rayon::prelude::*;

use super::{
    host::{
        Buffer, HostOp, HostTensor, Number, SavedTensors, Values, apply, floats, host, operand,
    },
    vectorized,
};

/// Rotates coordinate `i` of every head together with `i + S / 2`.
///
/// # Shapes
/// - heads and output `[T, H, S]`, cosines and sines `[T, 1, S / 2]`
pub(crate) fn rotate(heads: Tensor<3>, cos: &Tensor<3>, sin: &Tensor<3>) -> Tensor<3> {
    let shape = heads.dims();
    #[cfg(feature = "cube")]
    if let Some(output) = super::cube::rotate(&heads, cos, sin) {
        return output;
    }
    // Angles are constants, even on a device that records operations.
    let [host_cos, host_sin] = [cos, sin].map(|angles| host(&angles.clone().inner()));
    match (operand(&heads), host_cos, host_sin) {
        (Some(x), Some(cos), Some(sin)) => apply(
            Rotate {
                cos,
                sin,
                row: shape[1] * shape[2],
            },
            [x],
            shape,
        ),
        _ => rotate_in_burn(heads, cos.clone(), sin.clone()),
    }
}

pub(super) fn rotate_in_burn(heads: Tensor<3>, cos: Tensor<3>, sin: Tensor<3>) -> Tensor<3> {
    let half = heads.dims()[2] / 2;
    let (dtype, heads) = (heads.dtype(), heads.cast(DType::F32));
    let first = heads.clone().narrow(2, 0, half);
    let second = heads.narrow(2, half, half);
    Tensor::cat(
        vec![
            first.clone() * cos.clone() - second.clone() * sin.clone(),
            second * cos + first * sin,
        ],
        2,
    )
    .cast(dtype)
}

#[derive(Clone, Debug)]
struct Rotate {
    cos: HostTensor,
    sin: HostTensor,
    /// Values of one token: heads times head size.
    row: usize,
}

impl Rotate {
    /// Rotates by the angles if `sign` is 1, and back if it is −1.
    fn rotate_by(&self, input: Values<'_>, sign: f32) -> Buffer {
        match input {
            Values::F32(input) => self.rotate_numbers(input, sign),
            Values::Bf16(input) => self.rotate_numbers(input, sign),
        }
    }

    fn rotate_numbers<T: Number>(&self, input: &[T], sign: f32) -> Buffer {
        let tokens = input.len() / self.row;
        let half = floats(&self.cos).len() / tokens;
        let angles = floats(&self.cos)
            .par_chunks_exact(half)
            .zip(floats(&self.sin).par_chunks_exact(half));
        let mut output = vec![T::default(); input.len()];
        let rows = output
            .par_chunks_exact_mut(self.row)
            .zip(input.par_chunks_exact(self.row));
        rows.zip(angles)
            .with_min_len(16)
            .for_each(|((output, input), (cos, sin))| {
                vectorized(
                    #[inline(always)]
                    || {
                        let heads = output.chunks_exact_mut(2 * half);
                        for (output, input) in heads.zip(input.chunks_exact(2 * half)) {
                            let (first, second) = input.split_at(half);
                            let (to_first, to_second) = output.split_at_mut(half);
                            let angles = cos.iter().zip(sin);
                            let inputs = first.iter().zip(second);
                            let outputs = to_first.iter_mut().zip(to_second);
                            for (((x, y), (a, b)), (cos, sin)) in outputs.zip(inputs).zip(angles) {
                                let (sin, a, b) = (sign * sin, a.widen(), b.widen());
                                *x = T::round(a * cos - b * sin);
                                *y = T::round(b * cos + a * sin);
                            }
                        }
                    },
                );
            });
        T::buffer(output)
    }
}

impl HostOp<1> for Rotate {
    const SAVES: SavedTensors = SavedTensors::Nothing;

    fn forward(&self, [input]: [Values<'_>; 1]) -> Buffer {
        self.rotate_by(input, 1.0)
    }

    fn backward(
        &self,
        _inputs: [Values<'_>; 1],
        _output: Values<'_>,
        upstream: Values<'_>,
        _needs_gradient: [bool; 1],
    ) -> [Buffer; 1] {
        [self.rotate_by(upstream, -1.0)]
    }
}
