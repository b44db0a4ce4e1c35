//! The gate of the feed-forward layer: `y = silu(a) · b` with `silu(a) = a σ(a)`.

use burn::tensor::{Tensor, activation::silu};
use pulp::Arch;
use rayon::prelude::*;

use super::{
    exp::exp,
    host::{HostOp, SavedTensors, apply, operand},
};

/// Values that a thread takes at once.
const CHUNK: usize = 1 << 14;

/// `silu(gate) · up`, element by element.
///
/// # Shapes
/// - gate, up and output `[T, I]`
pub(crate) fn swiglu(gate: Tensor<2>, up: Tensor<2>) -> Tensor<2> {
    let shape = gate.dims();
    match (operand(&gate), operand(&up)) {
        (Some(a), Some(b)) => apply(SwiGlu, [a, b], shape),
        _ => silu(gate) * up,
    }
}

#[derive(Clone, Debug)]
struct SwiGlu;

#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

impl HostOp<2> for SwiGlu {
    const SAVES: SavedTensors = SavedTensors::Inputs;

    fn forward(&self, [gate, up]: [&[f32]; 2]) -> Vec<f32> {
        let arch = Arch::new();
        let mut output = vec![0.0; gate.len()];
        let chunks = gate.par_chunks(CHUNK).zip(up.par_chunks(CHUNK));
        output
            .par_chunks_mut(CHUNK)
            .zip(chunks)
            .for_each(|(output, (gate, up))| {
                arch.dispatch(
                    #[inline(always)]
                    || {
                        for ((y, a), b) in output.iter_mut().zip(gate).zip(up) {
                            *y = a * sigmoid(*a) * b;
                        }
                    },
                );
            });
        output
    }

    fn backward(
        &self,
        [gate, up]: [&[f32]; 2],
        _output: &[f32],
        upstream: &[f32],
        _needs_gradient: [bool; 2],
    ) -> [Vec<f32>; 2] {
        let arch = Arch::new();
        let (mut gate_gradient, mut up_gradient) = (vec![0.0; gate.len()], vec![0.0; gate.len()]);
        let inputs = gate
            .par_chunks(CHUNK)
            .zip(up.par_chunks(CHUNK))
            .zip(upstream.par_chunks(CHUNK));
        let gradients = gate_gradient
            .par_chunks_mut(CHUNK)
            .zip(up_gradient.par_chunks_mut(CHUNK));
        gradients
            .zip(inputs)
            .for_each(|((gate_gradient, up_gradient), ((gate, up), upstream))| {
                arch.dispatch(
                    #[inline(always)]
                    || {
                        let gradients = gate_gradient.iter_mut().zip(up_gradient);
                        let inputs = gate.iter().zip(up).zip(upstream);
                        for ((gate_slot, up_slot), ((a, b), g)) in gradients.zip(inputs) {
                            let s = sigmoid(*a);
                            *gate_slot = g * b * s * (1.0 + a * (1.0 - s));
                            *up_slot = g * a * s;
                        }
                    },
                );
            });
        [gate_gradient, up_gradient]
    }
}
