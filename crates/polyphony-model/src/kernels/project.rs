//! Projections: `y = x Wᵀ`.

use burn::tensor::Tensor;

use super::{
    few_rows::{MOST_ROWS, project_few_rows},
    host::{HostOp, Kept, apply, operand},
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

/// With fewer multiplications than this a product is not worth handing to the general one, which
/// sums in another order for every shape.
pub(super) const SMALL: usize = 1 << 21;

#[derive(Clone, Debug)]
struct Project {
    inner: usize,
}

impl HostOp<2> for Project {
    const KEEPS: Kept = Kept::Inputs;

    fn forward(&self, [input, weight]: [&[f32]; 2]) -> Vec<f32> {
        let (rows, outputs) = (input.len() / self.inner, weight.len() / self.inner);
        if rows <= MOST_ROWS || input.len() * outputs < SMALL {
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
        [for_input, for_weight]: [bool; 2],
    ) -> [Vec<f32>; 2] {
        let (rows, outputs) = (input.len() / self.inner, weight.len() / self.inner);
        let x = Matrix::new(input, rows, self.inner, self.inner);
        let w = Matrix::new(weight, outputs, self.inner, self.inner);
        let upstream = Matrix::new(upstream, rows, outputs, outputs);
        let if_wanted = |wanted: bool, make: &dyn Fn() -> Vec<f32>| match wanted {
            true => make(),
            false => Vec::new(),
        };
        [
            if_wanted(for_input, &|| product(upstream, w, 1.0)),
            if_wanted(for_weight, &|| product(upstream.t(), x, 1.0)),
        ]
    }
}
