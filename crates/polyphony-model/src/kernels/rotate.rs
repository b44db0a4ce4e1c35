//! Rotating queries and keys by their positions.

use burn::tensor::Tensor;
use rayon::prelude::*;

use super::host::{HostOp, HostTensor, SavedTensors, apply, host, operand, values};

/// Rotates coordinate `i` of every head together with `i + S / 2`.
///
/// # Shapes
/// - heads and output `[T, H, S]`, cosines and sines `[T, 1, S / 2]`
pub(crate) fn rotate(heads: Tensor<3>, cos: &Tensor<3>, sin: &Tensor<3>) -> Tensor<3> {
    let shape = heads.dims();
    match (operand(&heads), host(cos), host(sin)) {
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
    let first = heads.clone().narrow(2, 0, half);
    let second = heads.narrow(2, half, half);
    Tensor::cat(
        vec![
            first.clone() * cos.clone() - second.clone() * sin.clone(),
            second * cos + first * sin,
        ],
        2,
    )
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
    fn rotate_by(&self, input: &[f32], sign: f32) -> Vec<f32> {
        let tokens = input.len() / self.row;
        let half = values(&self.cos).len() / tokens;
        let angles = values(&self.cos)
            .par_chunks_exact(half)
            .zip(values(&self.sin).par_chunks_exact(half));
        let mut output = vec![0.0; input.len()];
        let rows = output
            .par_chunks_exact_mut(self.row)
            .zip(input.par_chunks_exact(self.row));
        rows.zip(angles)
            .with_min_len(16)
            .for_each(|((output, input), (cos, sin))| {
                let heads = output
                    .chunks_exact_mut(2 * half)
                    .zip(input.chunks_exact(2 * half));
                for (output, input) in heads {
                    let (first, second) = input.split_at(half);
                    let (to_first, to_second) = output.split_at_mut(half);
                    for i in 0..half {
                        let (cos, sin) = (cos[i], sign * sin[i]);
                        to_first[i] = first[i] * cos - second[i] * sin;
                        to_second[i] = second[i] * cos + first[i] * sin;
                    }
                }
            });
        output
    }
}

impl HostOp<1> for Rotate {
    const SAVES: SavedTensors = SavedTensors::Nothing;

    fn forward(&self, [input]: [&[f32]; 1]) -> Vec<f32> {
        self.rotate_by(input, 1.0)
    }

    fn backward(
        &self,
        _inputs: [&[f32]; 1],
        _output: &[f32],
        upstream: &[f32],
        _needs_gradient: [bool; 1],
    ) -> [Vec<f32>; 1] {
        [self.rotate_by(upstream, -1.0)]
    }
}
