//! The feed-forward layer.

use burn::{
    module::Module,
    tensor::{DType, Tensor},
};

use super::{layers::Linear, weights::LayerReader};
use crate::{
    ModelError, Projection,
    kernels::{self, Activation, ProjectionOutput},
};

/// The gated feed-forward layer, `down(f(gate(x)) · up(x))` (Shazeer, 2020, arXiv 2002.05202).
#[derive(Module, Debug)]
pub(crate) struct Mlp {
    pub(super) gate_proj: Linear,
    pub(super) up_proj: Linear,
    pub(super) down_proj: Linear,
    #[module(skip)]
    pub(super) activation: Activation,
}

impl Mlp {
    /// Reads the layer at `path`, relative to the reader's layer.
    pub(super) fn load(reader: &LayerReader<'_>, path: &str) -> Result<Self, ModelError> {
        Ok(Self {
            gate_proj: reader.linear(&format!("{path}.gate_proj"))?,
            up_proj: reader.linear(&format!("{path}.up_proj"))?,
            down_proj: reader.linear(&format!("{path}.down_proj"))?,
            activation: reader.config().parts.activation,
        })
    }

    /// The three projections, each with its path in the layer. `path` is that of this module.
    pub(super) fn projections(
        &mut self,
        path: String,
    ) -> impl Iterator<Item = (String, Projection, &mut Linear)> {
        let projections = [
            (Projection::Gate, &mut self.gate_proj),
            (Projection::Up, &mut self.up_proj),
            (Projection::Down, &mut self.down_proj),
        ];
        let projections = projections.into_iter();
        projections.map(move |(kind, linear)| (format!("{path}.{}", kind.name()), kind, linear))
    }

    /// The number type in which its input is read.
    pub(super) fn input_dtype(&self) -> DType {
        self.gate_proj.input_dtype()
    }

    /// # Shapes
    /// - input and output `[T, D]`
    pub(crate) fn forward(&self, input: Tensor<2>, form: ProjectionOutput) -> Tensor<2> {
        let gate = self
            .gate_proj
            .forward(input.clone(), ProjectionOutput::ForProducts);
        let up = self.up_proj.forward(input, ProjectionOutput::ForProducts);
        self.down_proj
            .forward(kernels::gated(gate, up, self.activation), form)
    }
}
