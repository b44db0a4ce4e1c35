//! The gate of the feed-forward layer: `y = f(a) · b`, element by element.

use burn::tensor::{
    Tensor,
    activation::{gelu_approximate, silu},
};
use half::bf16;
use rayon::prelude::*;

use super::{
    activation::{Activation, GELU_CUBIC, GELU_SCALE},
    exp::exp,
    for_each_chunk,
    host::{Buffer, HostOp, Number, SavedTensors, Values, apply, operand},
    vectorized,
};

/// Values that a thread takes at once.
const CHUNK: usize = 1 << 14;

/// `f(gate) · up`, element by element.
///
/// # Shapes
/// - gate, up and output `[T, I]`
pub(crate) fn gated(gate: Tensor<2>, up: Tensor<2>, activation: Activation) -> Tensor<2> {
    let shape = gate.dims();
    #[cfg(feature = "cube")]
    if let Some(output) = super::cube::gated(&gate, &up, activation) {
        return output;
    }
    match (operand(&gate), operand(&up), activation) {
        (Some(a), Some(b), Activation::Silu) => apply(Gated::<Silu>::NEW, [a, b], shape),
        (Some(a), Some(b), Activation::GeluTanh) => apply(Gated::<GeluTanh>::NEW, [a, b], shape),
        _ => gated_in_burn(gate, up, activation),
    }
}

pub(super) fn gated_in_burn(gate: Tensor<2>, up: Tensor<2>, activation: Activation) -> Tensor<2> {
    match activation {
        Activation::Silu => silu(gate) * up,
        Activation::GeluTanh => gelu_approximate(gate) * up,
    }
}

/// A function of one number, with its derivative.
trait Function: Copy + std::fmt::Debug + Send + Sync + 'static {
    fn value(a: f32) -> f32;

    /// The value and the derivative.
    fn differentiate(a: f32) -> (f32, f32);
}

#[derive(Clone, Copy, Debug)]
struct Silu;

#[derive(Clone, Copy, Debug)]
struct GeluTanh;

#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

impl Function for Silu {
    #[inline(always)]
    fn value(a: f32) -> f32 {
        a * sigmoid(a)
    }

    #[inline(always)]
    fn differentiate(a: f32) -> (f32, f32) {
        let s = sigmoid(a);
        (a * s, s * (1.0 + a * (1.0 - s)))
    }
}

impl Function for GeluTanh {
    #[inline(always)]
    fn value(a: f32) -> f32 {
        a * sigmoid(GELU_SCALE * (a + GELU_CUBIC * a * a * a))
    }

    #[inline(always)]
    fn differentiate(a: f32) -> (f32, f32) {
        let s = sigmoid(GELU_SCALE * (a + GELU_CUBIC * a * a * a));
        let slope = GELU_SCALE * (1.0 + 3.0 * GELU_CUBIC * a * a);
        (a * s, s + a * s * (1.0 - s) * slope)
    }
}

#[derive(Clone, Debug)]
struct Gated<F>(std::marker::PhantomData<F>);

impl<F> Gated<F> {
    const NEW: Self = Self(std::marker::PhantomData);
}

impl<F: Function> Gated<F> {
    fn values<T: Number>(gate: &[T], up: &[T]) -> Buffer {
        let mut output = vec![T::default(); gate.len()];
        for_each_chunk(&mut output, CHUNK, |index, output| {
            let start = index * CHUNK;
            let inputs = gate[start..].iter().zip(&up[start..]);
            vectorized(
                #[inline(always)]
                || {
                    for (y, (a, b)) in output.iter_mut().zip(inputs.clone()) {
                        *y = T::round(F::value(a.widen()) * b.widen());
                    }
                },
            );
        });
        T::buffer(output)
    }

    fn gradients<T: Number, U: Number>(gate: &[T], up: &[T], upstream: &[U]) -> [Buffer; 2] {
        let mut gate_gradient = vec![T::default(); gate.len()];
        let mut up_gradient = vec![T::default(); gate.len()];
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
                vectorized(
                    #[inline(always)]
                    || {
                        let gradients = gate_gradient.iter_mut().zip(up_gradient.iter_mut());
                        let inputs = gate.iter().zip(up).zip(upstream);
                        for ((gate_slot, up_slot), ((a, b), g)) in gradients.zip(inputs) {
                            let (value, derivative) = F::differentiate(a.widen());
                            let g = g.widen();
                            *gate_slot = T::round(g * b.widen() * derivative);
                            *up_slot = T::round(g * value);
                        }
                    },
                );
            });
        [gate_gradient, up_gradient].map(T::buffer)
    }
}

impl<F: Function> HostOp<2> for Gated<F> {
    const SAVES: SavedTensors = SavedTensors::Inputs;

    fn forward(&self, [gate, up]: [Values<'_>; 2]) -> Buffer {
        match gate {
            Values::F32(gate) => Self::values(gate, f32::slice(up)),
            Values::Bf16(gate) => Self::values(gate, bf16::slice(up)),
        }
    }

    fn backward(
        &self,
        [gate, up]: [Values<'_>; 2],
        _output: Values<'_>,
        upstream: Values<'_>,
        _needs_gradient: [bool; 2],
    ) -> [Buffer; 2] {
        match (gate, upstream) {
            (Values::F32(gate), Values::F32(g)) => Self::gradients(gate, f32::slice(up), g),
            (Values::F32(gate), Values::Bf16(g)) => Self::gradients(gate, f32::slice(up), g),
            (Values::Bf16(gate), Values::F32(g)) => Self::gradients(gate, bf16::slice(up), g),
            (Values::Bf16(gate), Values::Bf16(g)) => Self::gradients(gate, bf16::slice(up), g),
        }
    }
}
