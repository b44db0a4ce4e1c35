//! The layers that decoder-only transformers share. Legend for shapes: `T` tokens, `D` hidden
//! size, `I` inputs and `O` outputs of a projection, `V` vocabulary.

use burn::{
    module::{Module, Param},
    tensor::{Int, Tensor},
};

use super::low_rank::LoraAdapter;
use crate::{WeightGradients, kernels};

/// A projection; the weight is stored as `[O, I]`, as in Hugging Face files.
#[derive(Module, Debug)]
pub(crate) struct Linear {
    weight: Param<Tensor<2>>,
    bias: Option<Param<Tensor<1>>>,
    adapter: Option<LoraAdapter>,
}

impl Linear {
    /// # Shapes
    /// - weight `[O, I]`, bias `[O]`
    pub(crate) fn new(weight: Tensor<2>, bias: Option<Tensor<1>>) -> Self {
        Self {
            weight: Param::from_tensor(weight),
            bias: bias.map(Param::from_tensor),
            adapter: None,
        }
    }

    /// Attaches a low-rank adapter, replacing the current one if there is one.
    pub(crate) fn attach(&mut self, adapter: LoraAdapter) {
        self.adapter = Some(adapter);
    }

    /// Adds the adapter's update to the weight, and removes the adapter.
    pub(crate) fn merge(&mut self) {
        if let Some(adapter) = self.adapter.take() {
            self.weight = Param::from_tensor(self.weight.val() + adapter.product());
        }
    }

    /// The projection of every row.
    ///
    /// # Shapes
    /// - input `[T, I]`, output `[T, O]`
    pub(crate) fn forward(&self, input: Tensor<2>) -> Tensor<2> {
        let update = self
            .adapter
            .as_ref()
            .map(|adapter| adapter.forward(input.clone()));
        let mut projected = kernels::project(input, self.weight.val());
        if let Some(bias) = &self.bias {
            projected = projected + bias.val().unsqueeze();
        }
        match update {
            Some(update) => projected + update,
            None => projected,
        }
    }

    /// The weight, `[O, I]`.
    pub(crate) fn weight(&self) -> Tensor<2> {
        self.weight.val()
    }
}

/// The table of token embeddings.
#[derive(Module, Debug)]
pub(crate) struct Embedding {
    weight: Param<Tensor<2>>,
}

impl Embedding {
    pub(crate) fn new(weight: Tensor<2>) -> Self {
        Self {
            weight: Param::from_tensor(weight),
        }
    }

    /// The embeddings of tokens.
    ///
    /// # Shapes
    /// - ids `[T]`, output `[T, D]`
    pub(crate) fn forward(&self, ids: Tensor<1, Int>) -> Tensor<2> {
        self.weight.val().select(0, ids)
    }

    /// Adds the gradients of token embeddings to the gradient of the table, if the table is trainable.
    ///
    /// # Shapes
    /// - ids `[T]`, rows `[T, D]`
    pub(crate) fn add_gradients(
        &self,
        gradients: &mut WeightGradients,
        ids: Tensor<1, Int>,
        rows: Tensor<2>,
    ) {
        if self.weight.is_require_grad() {
            gradients.add_embeddings(&self.weight, ids, rows);
        }
    }

    /// The table, `[V, D]`.
    pub(crate) fn weight(&self) -> Tensor<2> {
        self.weight.val()
    }
}

/// Root-mean-square normalization (Zhang and Sennrich, 2019, arXiv 1910.07467).
#[derive(Module, Debug)]
pub(crate) struct RmsNorm {
    weight: Param<Tensor<1>>,
    #[module(skip)]
    epsilon: f64,
    #[module(skip)]
    offset: f32,
}

impl RmsNorm {
    /// `offset` is added to the weight.
    pub(crate) fn new(weight: Tensor<1>, epsilon: f64, offset: f32) -> Self {
        Self {
            weight: Param::from_tensor(weight),
            epsilon,
            offset,
        }
    }

    /// Every row divided by its root mean square, times the weight plus the offset.
    ///
    /// # Shapes
    /// - input and output `[T, D]`
    pub(crate) fn forward(&self, input: Tensor<2>) -> Tensor<2> {
        kernels::rms_norm(input, self.weight.val(), self.epsilon, self.offset)
    }

    /// As [`RmsNorm::forward`], for every head of every row.
    ///
    /// # Shapes
    /// - input and output `[T, heads, D]`
    pub(crate) fn forward_heads(&self, input: Tensor<3>) -> Tensor<3> {
        let [tokens, heads, size] = input.dims();
        let rows = self.forward(input.reshape([tokens * heads, size]));
        rows.reshape([tokens, heads, size])
    }
}
