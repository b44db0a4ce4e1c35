//! Low-rank adapters (Hu et al., 2021, arXiv 2106.09685): `y = W x + (α / R) · B A x`, where only `A`
//! and `B` are trained.

use burn::{
    module::{Module, Param},
    tensor::Tensor,
};

use crate::kernels;

/// The adapter of one projection. `R` rank, `I` inputs, `O` outputs.
#[derive(Module, Debug)]
pub(crate) struct LoraAdapter {
    /// `[R, I]`
    a: Param<Tensor<2>>,
    /// `[O, R]`
    b: Param<Tensor<2>>,
    #[module(skip)]
    scale: f64,
}

impl LoraAdapter {
    /// # Shapes
    /// - a `[R, I]`, b `[O, R]`
    pub(crate) fn new(a: Tensor<2>, b: Tensor<2>, scale: f64) -> Self {
        Self {
            a: Param::from_tensor(a),
            b: Param::from_tensor(b),
            scale,
        }
    }

    /// What the adapter adds to the projection of every row, in 32-bit floats.
    ///
    /// # Shapes
    /// - input `[T, I]`, output `[T, O]`
    pub(crate) fn forward(&self, input: Tensor<2>) -> Tensor<2> {
        let reduced = kernels::project_floats(input, self.a.val());
        kernels::project_floats(reduced, self.b.val()) * self.scale
    }

    /// What the adapter adds to the projection's weight, `[O, I]`.
    pub(crate) fn product(&self) -> Tensor<2> {
        self.b.val().matmul(self.a.val()) * self.scale
    }
}
