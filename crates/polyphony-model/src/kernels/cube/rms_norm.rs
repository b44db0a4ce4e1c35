//! Root-mean-square normalization in one launch, and its gradient in two.

use burn::{
    backend::Cube,
    tensor::{DType, Shape, Tensor},
};
use cubecl::{
    ir::{ElemType, FloatKind},
    prelude::*,
};

use super::{
    super::differentiable::{Op, apply},
    CubeTensor, UNITS, buffer, cube_sum, cubes, cubes_of_units, empty, float_type, operand, units,
};

/// Cubes of the backward pass. Each adds up the gradient of the weight over its rows.
const BACKWARD_CUBES: usize = 256;

/// The weight of a root-mean-square normalization, and its constants.
#[derive(Debug)]
pub(crate) struct Norm {
    /// `[D]`
    pub(crate) weight: CubeTensor,
    pub(crate) epsilon: f32,
    /// What is added to the weight.
    pub(crate) offset: f32,
}

/// [`crate::kernels::rms_norm`]; `None` unless all tensors are on a GPU. The weight consists of 32-bit floats.
pub(crate) fn rms_norm(
    input: &Tensor<2>,
    weight: &Tensor<1>,
    epsilon: f64,
    offset: f32,
    output: DType,
) -> Option<Tensor<2>> {
    let operands = [operand(input)?, operand(weight)?];
    if operands[1].dtype() != DType::F32 {
        return None;
    }
    let op = RmsNorm {
        epsilon: epsilon as f32,
        offset,
        output,
    };
    Some(apply(op, operands, input.dims()))
}

#[derive(Clone, Copy, Debug)]
struct RmsNorm {
    epsilon: f32,
    /// What is added to the weight.
    offset: f32,
    /// The type of the output.
    output: DType,
}

impl Op<Cube, 2> for RmsNorm {
    /// Input and weight.
    type Saved = [CubeTensor; 2];

    fn forward(
        &self,
        inputs @ [input, weight]: [&CubeTensor; 2],
        shape: Shape,
    ) -> (CubeTensor, Self::Saved) {
        let [rows, width] = shape.dims();
        let output = buffer(input, shape, self.output);
        normalize::launch(
            &input.client,
            cubes(rows),
            units(),
            input.clone().into_buffer_arg(),
            weight.clone().into_buffer_arg(),
            output.clone().into_buffer_arg(),
            rows as u32,
            self.epsilon,
            self.offset,
            width,
            false,
            UNITS,
            float_type(input),
            float_type(&output),
        );
        (output, inputs.map(CubeTensor::clone))
    }

    fn backward(
        &self,
        [input, weight]: [CubeTensor; 2],
        [input_shape, weight_shape]: [&Shape; 2],
        upstream: CubeTensor,
        needs_gradient: [bool; 2],
    ) -> [Option<CubeTensor>; 2] {
        let client = input.client.clone();
        let [rows, width] = input_shape.dims();
        let groups = rows.min(BACKWARD_CUBES);
        let input_gradient = buffer(&input, input_shape.clone(), input.dtype);
        let dtypes = [float_type(&input), float_type(&upstream)];
        let partial_sums = empty(&input, Shape::new([groups, width]));
        differentiate_norm::launch(
            &client,
            cubes(groups),
            units(),
            input.clone().into_buffer_arg(),
            weight.into_buffer_arg(),
            upstream.into_buffer_arg(),
            input_gradient.clone().into_buffer_arg(),
            partial_sums.clone().into_buffer_arg(),
            rows as u32,
            self.epsilon,
            self.offset,
            width,
            UNITS,
            dtypes[0],
            dtypes[1],
        );
        let weight_gradient = needs_gradient[1].then(|| {
            let sum = empty(&input, weight_shape.clone());
            add_rows::launch(
                &client,
                cubes_of_units(width),
                units(),
                partial_sums.into_buffer_arg(),
                sum.clone().into_buffer_arg(),
                groups as u32,
            );
            sum
        });
        [Some(input_gradient), weight_gradient]
    }
}

/// Adds normalized rows to the residual stream.
///
/// # Shapes
/// - input and residual `[R, D]`
pub(crate) fn add_normalized(input: &CubeTensor, norm: &Norm, residual: &CubeTensor, rows: usize) {
    let [_, width] = residual.meta.shape().dims();
    normalize::launch(
        &input.client,
        cubes(rows),
        units(),
        input.clone().into_buffer_arg(),
        norm.weight.clone().into_buffer_arg(),
        residual.clone().into_buffer_arg(),
        rows as u32,
        norm.epsilon,
        norm.offset,
        width,
        true,
        UNITS,
        ElemType::Float(FloatKind::F32),
        ElemType::Float(FloatKind::F32),
    );
}

/// `1 / √(mean(x²) + ε)` of the row that starts at `start`.
#[cube]
fn inverse_root<I: Float>(
    x: &[I],
    start: usize,
    epsilon: f32,
    parts: &mut [f32],
    #[comptime] width: usize,
    #[comptime] units: usize,
) -> f32 {
    let mut sum = 0.0f32;
    let mut i = UNIT_POS as usize;
    while i < width {
        let value = f32::cast_from(x[start + i]);
        sum += value * value;
        i += units;
    }
    let total = cube_sum(sum, parts, units);
    1.0f32 / (total / width as f32 + epsilon).sqrt()
}

#[cube(launch)]
fn normalize<I: Float, O: Float>(
    x: &[I],
    weight: &[f32],
    y: &mut [O],
    rows: u32,
    epsilon: f32,
    offset: f32,
    #[comptime] width: usize,
    #[comptime] added: bool,
    #[comptime] units: usize,
    #[define(I)] _input: ElemType,
    #[define(O)] _output: ElemType,
) {
    let mut parts = Shared::<[f32]>::new_slice(units);
    let mut row = CUBE_POS;
    while row < rows as usize {
        let start = row * width;
        let factor = inverse_root::<I>(x, start, epsilon, &mut parts, width, units);
        let mut i = UNIT_POS as usize;
        while i < width {
            let value = f32::cast_from(x[start + i]) * factor * (offset + weight[i]);
            if added {
                y[start + i] += O::cast_from(value);
            } else {
                y[start + i] = O::cast_from(value);
            }
            i += units;
        }
        row += CUBE_COUNT;
    }
}

/// With `f = 1 / √(mean(x²) + ε)`, `v = o + w` and upstream `g`: `∂x = f g v − x f³ mean(g v x)`, and each cube's
/// share of `∂w = Σ g x f`.
#[cube(launch)]
fn differentiate_norm<I: Float, O: Float>(
    x: &[I],
    weight: &[f32],
    upstream: &[O],
    input_gradient: &mut [I],
    partial_sums: &mut [f32],
    rows: u32,
    epsilon: f32,
    offset: f32,
    #[comptime] width: usize,
    #[comptime] units: usize,
    #[define(I)] _input: ElemType,
    #[define(O)] _output: ElemType,
) {
    let own = CUBE_POS * width;
    let mut i = UNIT_POS as usize;
    while i < width {
        partial_sums[own + i] = 0.0f32;
        i += units;
    }
    let mut parts = Shared::<[f32]>::new_slice(units);
    let mut row = CUBE_POS;
    while row < rows as usize {
        let start = row * width;
        let factor = inverse_root::<I>(x, start, epsilon, &mut parts, width, units);
        let mut products = 0.0f32;
        let mut i = UNIT_POS as usize;
        while i < width {
            let (value, gradient) = (
                f32::cast_from(x[start + i]),
                f32::cast_from(upstream[start + i]),
            );
            products += gradient * (offset + weight[i]) * value;
            i += units;
        }
        let total = cube_sum(products, &mut parts, units);
        let correction = factor * factor * factor * total / width as f32;
        let mut i = UNIT_POS as usize;
        while i < width {
            let (value, gradient) = (
                f32::cast_from(x[start + i]),
                f32::cast_from(upstream[start + i]),
            );
            let slope = factor * gradient * (offset + weight[i]) - value * correction;
            input_gradient[start + i] = I::cast_from(slope);
            // No other unit touches this column.
            partial_sums[own + i] += gradient * value * factor;
            i += units;
        }
        row += CUBE_COUNT;
    }
}

/// The sum of the rows of a matrix.
#[cube(launch)]
fn add_rows(matrix: &[f32], sum: &mut [f32], rows: u32) {
    let width = sum.len();
    let mut column = ABSOLUTE_POS;
    while column < width {
        let mut total = 0.0f32;
        let mut row = 0usize;
        while row < rows as usize {
            total += matrix[row * width + column];
            row += 1;
        }
        sum[column] = total;
        column += CUBE_COUNT * CUBE_DIM as usize;
    }
}
