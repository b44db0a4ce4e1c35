//! The gate of the feed-forward layer in one launch, and its gradient in one.

use burn::{
    backend::Cube,
    tensor::{Shape, Tensor},
};
use cubecl::prelude::*;

use super::{
    super::{
        activation::{Activation, GELU_CUBIC, GELU_SCALE},
        differentiable::{Input, Op, SavedTensors, apply},
    },
    CubeTensor, cubes_of_units, empty, operand, units,
};

/// [`crate::kernels::gated`]; `None` unless both tensors are on a GPU and consist of 32-bit floats.
pub(crate) fn gated(gate: &Tensor<2>, up: &Tensor<2>, activation: Activation) -> Option<Tensor<2>> {
    let operands = [operand(gate)?, operand(up)?];
    Some(apply(Gated(activation), operands, gate.dims()))
}

#[derive(Clone, Copy, Debug)]
struct Gated(Activation);

/// An activation as `a σ(z)` with `z = scale · (a + cubic · a³)`.
pub(super) struct Sigmoid {
    pub(super) scale: f32,
    pub(super) cubic: f32,
}

impl Sigmoid {
    pub(super) fn of(activation: Activation) -> Self {
        let (scale, cubic) = match activation {
            Activation::Silu => (1.0, 0.0),
            Activation::GeluTanh => (GELU_SCALE, GELU_CUBIC),
        };
        Self { scale, cubic }
    }
}

impl Op<Cube, 2> for Gated {
    const SAVES: SavedTensors = SavedTensors::Inputs;

    fn forward(&self, [gate, up]: [&CubeTensor; 2], shape: Shape) -> CubeTensor {
        let Sigmoid { scale, cubic } = Sigmoid::of(self.0);
        let numbers = shape.num_elements();
        let output = empty(gate, shape);
        forward::launch(
            &gate.client,
            cubes_of_units(numbers),
            units(),
            gate.clone().into_buffer_arg(),
            up.clone().into_buffer_arg(),
            output.clone().into_buffer_arg(),
            scale,
            cubic,
        );
        output
    }

    fn backward(
        &self,
        [gate, up]: [Input<'_, Cube>; 2],
        _output: Option<&CubeTensor>,
        upstream: CubeTensor,
        _needs_gradient: [bool; 2],
    ) -> [Option<CubeTensor>; 2] {
        let (Some(a), Some(b)) = (gate.tensor, up.tensor) else {
            unreachable!("the inputs are saved")
        };
        let Sigmoid { scale, cubic } = Sigmoid::of(self.0);
        let gradients = [gate.shape, up.shape].map(|shape| empty(a, shape.clone()));
        let [gate_gradient, up_gradient] = gradients.clone();
        backward::launch(
            &a.client,
            cubes_of_units(gate.shape.num_elements()),
            units(),
            a.clone().into_buffer_arg(),
            b.clone().into_buffer_arg(),
            upstream.into_buffer_arg(),
            gate_gradient.into_buffer_arg(),
            up_gradient.into_buffer_arg(),
            scale,
            cubic,
        );
        gradients.map(Some)
    }
}

/// `σ(scale · (a + cubic · a³))`
#[cube]
pub(super) fn sigmoid(a: f32, scale: f32, cubic: f32) -> f32 {
    let z = scale * (a + cubic * a * a * a);
    // The exponential of a larger number would overflow, which not every device turns into infinity.
    let exponent = f32::min(-z, 80.0f32.runtime());
    1.0f32 / (1.0f32 + exponent.exp())
}

#[cube(launch)]
fn forward(gate: &[f32], up: &[f32], y: &mut [f32], scale: f32, cubic: f32) {
    let mut i = ABSOLUTE_POS;
    while i < y.len() {
        let a = gate[i];
        y[i] = a * sigmoid(a, scale, cubic) * up[i];
        i += CUBE_COUNT * CUBE_DIM as usize;
    }
}

#[cube(launch)]
fn backward(
    gate: &[f32],
    up: &[f32],
    upstream: &[f32],
    gate_gradient: &mut [f32],
    up_gradient: &mut [f32],
    scale: f32,
    cubic: f32,
) {
    let mut i = ABSOLUTE_POS;
    while i < upstream.len() {
        let (a, g) = (gate[i], upstream[i]);
        let s = sigmoid(a, scale, cubic);
        let slope = scale * (1.0f32 + 3.0f32 * cubic * a * a);
        gate_gradient[i] = g * up[i] * (s + a * s * (1.0f32 - s) * slope);
        up_gradient[i] = g * a * s;
        i += CUBE_COUNT * CUBE_DIM as usize;
    }
}
