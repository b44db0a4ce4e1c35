//! Projections: `y = x Wᵀ`.

use burn::tensor::Tensor;

use super::{
    few_rows::{MAX_ROWS, project_few_rows},
    host::{HostOp, SavedTensors, apply, operand},
    matrix::{Matrix, product},
};

/// The product of every input row with a weight stored as `[O, I]`.
///
/// # Shapes
/// - input `[T, I]`, weight `[O, I]`, output `[T, O]`
pub(crate) fn project(input: Tensor<2>, weight: Tensor<2>) -> Tensor<2> {
    let ([rows, inner], [outputs, _]) = (input.dims(), weight.dims());
    match (operand(&input), operand(&weight)) {
        (Some(x), Some(w)) => apply(Project { inner }, [x, w], [rows, outputs]),
        _ => input.matmul(weight.transpose()),
    }
}

/// The smallest number of multiplications for which the general matrix product is used. Below it, the
/// product would save little time, and it has a disadvantage: the order of its sums depends on the shape,
/// so a row's rounding depends on how many rows are computed together.
pub(super) const SMALL: usize = 1 << 21;

#[derive(Clone, Debug)]
struct Project {
    inner: usize,
}

impl HostOp<2> for Project {
    const SAVES: SavedTensors = SavedTensors::Inputs;

    fn forward(&self, [input, weight]: [&[f32]; 2]) -> Vec<f32> {
        let (rows, outputs) = (input.len() / self.inner, weight.len() / self.inner);
        if rows <= MAX_ROWS || input.len() * outputs < SMALL {
            return project_few_rows(input, weight, self.inner);
        }
        let x = Matrix::new(input, rows, self.inner, self.inner);
        let w = Matrix::new(weight, outputs, self.inner, self.inner);
        product(x, w.t(), 1.0)
    }

    fn backward(
        &self,
        [input, weight]: [&[f32]; 2],
        _output: &[f32],
        upstream: &[f32],
        [needs_input, needs_weight]: [bool; 2],
    ) -> [Vec<f32>; 2] {
        let (rows, outputs) = (input.len() / self.inner, weight.len() / self.inner);
        let x = Matrix::new(input, rows, self.inner, self.inner);
        let w = Matrix::new(weight, outputs, self.inner, self.inner);
        let upstream = Matrix::new(upstream, rows, outputs, outputs);
        let if_needed = |needed: bool, compute: &dyn Fn() -> Vec<f32>| match needed {
            true => compute(),
            false => Vec::new(),
        };
        [
            if_needed(needs_input, &|| product(upstream, w, 1.0)),
            if_needed(needs_weight, &|| product(upstream.t(), x, 1.0)),
        ]
    }
}
