//! The rotation of queries and keys in one launch, and its gradient in one.

use burn::{
    backend::Cube,
    tensor::{DType, Shape, Tensor},
};
use burn_cubecl::kernel::into_contiguous;
use cubecl::{ir::ElemType, prelude::*};

use super::{
    super::differentiable::{Op, apply},
    CubeTensor, buffer, cubes_of_units, float_type, operand, units,
};

/// [`crate::kernels::rotate`]; `None` unless all tensors are on a GPU and the angles are 32-bit floats.
pub(crate) fn rotate(heads: &Tensor<3>, cos: &Tensor<3>, sin: &Tensor<3>) -> Option<Tensor<3>> {
    let shape = heads.dims();
    let angles = |table: &Tensor<3>| {
        let table = table.clone().inner().try_into_primitive::<Cube>().ok()?;
        (table.dtype == DType::F32).then(|| into_contiguous(table))
    };
    let op = Rotate {
        cos: angles(cos)?,
        sin: angles(sin)?,
        heads: shape[1],
    };
    Some(apply(op, [operand(heads)?], shape))
}

#[derive(Clone, Debug)]
struct Rotate {
    cos: CubeTensor,
    sin: CubeTensor,
    heads: usize,
}

impl Rotate {
    /// Rotates by the angles if `sign` is 1, and back if it is −1.
    fn rotate_by(&self, input: &CubeTensor, shape: Shape, sign: f32) -> CubeTensor {
        let pairs = shape.num_elements() / 2;
        let half = shape.dims::<3>()[2] / 2;
        let output = buffer(input, shape, input.dtype);
        turn::launch(
            &input.client,
            cubes_of_units(pairs),
            units(),
            input.clone().into_buffer_arg(),
            self.cos.clone().into_buffer_arg(),
            self.sin.clone().into_buffer_arg(),
            output.clone().into_buffer_arg(),
            sign,
            self.heads,
            half,
            float_type(input),
        );
        output
    }
}

impl Op<Cube, 1> for Rotate {
    type Saved = ();

    fn forward(&self, [heads]: [&CubeTensor; 1], shape: Shape) -> (CubeTensor, ()) {
        (self.rotate_by(heads, shape, 1.0), ())
    }

    fn backward(
        &self,
        (): (),
        [shape]: [&Shape; 1],
        upstream: CubeTensor,
        _needs_gradient: [bool; 1],
    ) -> [Option<CubeTensor>; 1] {
        [Some(self.rotate_by(&upstream, shape.clone(), -1.0))]
    }
}

/// Each unit turns a pair of coordinates, `i` and `i + half` of a head.
#[cube(launch)]
fn turn<F: Float>(
    x: &[F],
    cos: &[f32],
    sin: &[f32],
    y: &mut [F],
    sign: f32,
    #[comptime] heads: usize,
    #[comptime] half: usize,
    #[define(F)] _dtype: ElemType,
) {
    let pairs = y.len() / 2;
    let mut pair = ABSOLUTE_POS;
    while pair < pairs {
        let (head, i) = (pair / half, pair % half);
        let (first, angle) = (head * half * 2 + i, head / heads * half + i);
        let (a, b) = (f32::cast_from(x[first]), f32::cast_from(x[first + half]));
        let (c, s) = (cos[angle], sign * sin[angle]);
        y[first] = F::cast_from(a * c - b * s);
        y[first + half] = F::cast_from(b * c + a * s);
        pair += CUBE_COUNT * CUBE_DIM as usize;
    }
}
