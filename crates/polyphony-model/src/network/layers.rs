//! The layers that decoder-only transformers share. Legend for shapes: `T` tokens, `D` hidden
//! size, `I` inputs and `O` outputs of a projection, `V` vocabulary.

use burn::{
    module::{Module, Param},
    tensor::{DType, Int, Tensor},
};

use super::low_rank::LoraAdapter;
use crate::{
    Precision, WeightGradients,
    kernels::{self, ProjectionOutput, Weight, WeightFormat},
};

/// A projection; the weight is stored as `[O, I]`, as in Hugging Face files.
#[derive(Module, Debug)]
pub(crate) struct Linear {
    weight: Param<Tensor<2>>,
    bias: Option<Param<Tensor<1>>>,
    adapter: Option<LoraAdapter>,
    #[module(skip)]
    format: WeightFormat,
}

impl Linear {
    /// # Shapes
    /// - weight `[O, I]`, bias `[O]`
    pub(crate) fn new(weight: Tensor<2>, bias: Option<Tensor<1>>) -> Self {
        Self {
            weight: Param::from_tensor(weight),
            bias: bias.map(Param::from_tensor),
            adapter: None,
            format: WeightFormat::F32,
        }
    }

    /// Attaches a low-rank adapter, replacing the current one if there is one.
    pub(crate) fn attach(&mut self, adapter: LoraAdapter) {
        self.adapter = Some(adapter);
    }

    /// Adds the adapter's update to the weight, and removes the adapter.
    pub(crate) fn merge(&mut self) {
        if let Some(update) = self.update() {
            self.weight = Param::from_tensor(self.weight.val() + update);
            self.adapter = None;
        }
    }

    /// What the adapter adds to the weight, `[O, I]`, if there is an adapter.
    pub(super) fn update(&self) -> Option<Tensor<2>> {
        self.adapter.as_ref().map(LoraAdapter::product)
    }

    /// The bias, `[O]`.
    #[cfg(feature = "cube")]
    pub(super) fn bias(&self) -> Option<Tensor<1>> {
        self.bias.as_ref().map(|bias| bias.val().inner())
    }

    /// Prepares the weight for products of this precision. It must be called again when the weight has changed.
    pub(crate) fn prepare(&mut self, precision: Precision) {
        self.format.prepare(self.weight.val(), precision.dtype());
    }

    /// The number type in which products read their input.
    pub(crate) fn input_dtype(&self) -> DType {
        self.format.dtype()
    }

    /// The projection of every row.
    ///
    /// # Shapes
    /// - input `[T, I]`, output `[T, O]`
    pub(crate) fn forward(&self, input: Tensor<2>, form: ProjectionOutput) -> Tensor<2> {
        let weight = self.product_weight();
        let bias = self.bias.as_ref().map(Param::val);
        let Some(adapter) = &self.adapter else {
            return kernels::project(input, &weight, bias, form);
        };
        let update = adapter.forward(input.clone());
        let sum = kernels::project(input, &weight, bias, ProjectionOutput::Floats) + update;
        form.of(sum, self.input_dtype())
    }

    /// The weight, `[O, I]`.
    pub(crate) fn weight(&self) -> Tensor<2> {
        self.weight.val()
    }

    /// The weight in the form that products need.
    pub(crate) fn product_weight(&self) -> Weight {
        Weight {
            tensor: self.weight.val(),
            format: self.format.clone(),
        }
    }
}

/// The table of token embeddings.
#[derive(Module, Debug)]
pub(crate) struct Embedding {
    weight: Param<Tensor<2>>,
    /// The format in which an output head reads the table.
    #[module(skip)]
    format: WeightFormat,
}

impl Embedding {
    pub(crate) fn new(weight: Tensor<2>) -> Self {
        Self {
            weight: Param::from_tensor(weight),
            format: WeightFormat::F32,
        }
    }

    /// Prepares the table for its use as an output head, as [`Linear::prepare`] does.
    pub(crate) fn prepare_as_head(&mut self, precision: Precision) {
        self.format.prepare(self.weight.val(), precision.dtype());
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

    /// The table as an output head.
    pub(crate) fn head(&self) -> Weight {
        Weight {
            tensor: self.weight.val(),
            format: self.format.clone(),
        }
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

    /// The weight, the number that is added to the mean square, and the number that is added to the weight.
    #[cfg(feature = "cube")]
    pub(super) fn parts(&self) -> (Tensor<1>, f64, f32) {
        (self.weight.val(), self.epsilon, self.offset)
    }

    /// Every row divided by its root mean square, times the weight plus the offset, as numbers of type `output`.
    ///
    /// # Shapes
    /// - input and output `[T, D]`
    pub(crate) fn forward(&self, input: Tensor<2>, output: DType) -> Tensor<2> {
        let weight = self.weight.val();
        kernels::rms_norm(input, weight, self.epsilon, self.offset, output)
    }

    /// As [`RmsNorm::forward`], for every head of every row, in the number type of the input.
    ///
    /// # Shapes
    /// - input and output `[T, heads, D]`
    pub(crate) fn forward_heads(&self, input: Tensor<3>) -> Tensor<3> {
        let [tokens, heads, size] = input.dims();
        let dtype = input.dtype();
        let rows = self.forward(input.reshape([tokens * heads, size]), dtype);
        rows.reshape([tokens, heads, size])
    }
}
