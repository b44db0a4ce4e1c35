//! The gate of the feed-forward layer in one launch, and its gradient in one.

use burn::{
    backend::Cube,
    tensor::{Shape, Tensor},
};
use cubecl::{ir::ElemType, prelude::*};

use super::{
    super::{
        activation::{Activation, GELU_CUBIC, GELU_SCALE},
        differentiable::{Op, apply},
    },
    CubeTensor, buffer, cubes_of_units, float_type, operand, units,
};

/// [`crate::kernels::gated`]; `None` unless both tensors are on a GPU and of one type.
pub(crate) fn gated(gate: &Tensor<2>, up: &Tensor<2>, activation: Activation) -> Option<Tensor<2>> {
    let operands = [operand(gate)?, operand(up)?];
    let same = operands[0].dtype() == operands[1].dtype();
    same.then(|| apply(Gated(activation), operands, gate.dims()))
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
    /// Gate and up.
    type Saved = [CubeTensor; 2];

    fn forward(
        &self,
        inputs @ [gate, up]: [&CubeTensor; 2],
        shape: Shape,
    ) -> (CubeTensor, Self::Saved) {
        let Sigmoid { scale, cubic } = Sigmoid::of(self.0);
        let numbers = shape.num_elements();
        let output = buffer(gate, shape, gate.dtype);
        gate::launch(
            &gate.client,
            cubes_of_units(numbers),
            units(),
            gate.clone().into_buffer_arg(),
            up.clone().into_buffer_arg(),
            output.clone().into_buffer_arg(),
            scale,
            cubic,
            float_type(gate),
        );
        (output, inputs.map(CubeTensor::clone))
    }

    fn backward(
        &self,
        [gate, up]: [CubeTensor; 2],
        shapes: [&Shape; 2],
        upstream: CubeTensor,
        _needs_gradient: [bool; 2],
    ) -> [Option<CubeTensor>; 2] {
        let Sigmoid { scale, cubic } = Sigmoid::of(self.0);
        let (client, dtype) = (gate.client.clone(), float_type(&gate));
        let gradients = shapes.map(|shape| buffer(&gate, shape.clone(), gate.dtype));
        let [gate_gradient, up_gradient] = gradients.clone();
        differentiate_gate::launch(
            &client,
            cubes_of_units(shapes[0].num_elements()),
            units(),
            gate.into_buffer_arg(),
            up.into_buffer_arg(),
            upstream.into_buffer_arg(),
            gate_gradient.into_buffer_arg(),
            up_gradient.into_buffer_arg(),
            scale,
            cubic,
            dtype,
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
fn gate<F: Float>(
    gate: &[F],
    up: &[F],
    y: &mut [F],
    scale: f32,
    cubic: f32,
    #[define(F)] _dtype: ElemType,
) {
    let mut i = ABSOLUTE_POS;
    while i < y.len() {
        let a = f32::cast_from(gate[i]);
        y[i] = F::cast_from(a * sigmoid(a, scale, cubic) * f32::cast_from(up[i]));
        i += CUBE_COUNT * CUBE_DIM as usize;
    }
}

#[cube(launch)]
fn differentiate_gate<F: Float>(
    gate: &[F],
    up: &[F],
    upstream: &[F],
    gate_gradient: &mut [F],
    up_gradient: &mut [F],
    scale: f32,
    cubic: f32,
    #[define(F)] _dtype: ElemType,
) {
    let mut i = ABSOLUTE_POS;
    while i < upstream.len() {
        let (a, g) = (f32::cast_from(gate[i]), f32::cast_from(upstream[i]));
        let s = sigmoid(a, scale, cubic);
        let slope = scale * (1.0f32 + 3.0f32 * cubic * a * a);
        let derivative = s + a * s * (1.0f32 - s) * slope;
        gate_gradient[i] = F::cast_from(g * f32::cast_from(up[i]) * derivative);
        up_gradient[i] = F::cast_from(g * a * s);
        i += CUBE_COUNT * CUBE_DIM as usize;
    }
}
