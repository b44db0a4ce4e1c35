//! The networks: one file per architecture, and the parts that they share.

pub(crate) mod attention;
mod decoder;
mod layers;
mod llama;
mod low_rank;
mod qwen2;
mod qwen3;
mod recompute;
pub(crate) mod rope;
mod weights;

use burn::{
    module::Module,
    tensor::{Device, Int, Tensor},
};

pub(crate) use attention::Attention;
pub(crate) use low_rank::LoraAdapter;
pub(crate) use recompute::LayerInputs;
pub(crate) use weights::{WeightReader, named_weights};

use self::layers::Linear;
use self::{
    decoder::Decoder, llama::LlamaAttention, qwen2::Qwen2Attention, qwen3::Qwen3Attention,
    rope::Rotation,
};
use crate::{Architecture, ModelConfig, ModelError, Projection, WeightGradients};

/// A network of any architecture.
#[derive(Module, Debug)]
pub(crate) enum Network {
    Llama(Decoder<LlamaAttention>),
    Qwen2(Decoder<Qwen2Attention>),
    Qwen3(Decoder<Qwen3Attention>),
}

/// Evaluates one expression on the decoder, whatever its architecture.
macro_rules! with_decoder {
    ($network:expr, $decoder:ident => $expression:expr) => {
        match $network {
            Network::Llama($decoder) => $expression,
            Network::Qwen2($decoder) => $expression,
            Network::Qwen3($decoder) => $expression,
        }
    };
}

impl Network {
    /// Builds the network and reads its weights.
    pub(crate) fn load(
        config: &ModelConfig,
        reader: &WeightReader<'_>,
    ) -> Result<Self, ModelError> {
        Ok(match config.architecture {
            Architecture::Llama => Self::Llama(Decoder::load(config, reader)?),
            Architecture::Qwen2 => Self::Qwen2(Decoder::load(config, reader)?),
            Architecture::Qwen3 => Self::Qwen3(Decoder::load(config, reader)?),
        })
    }

    /// A network without weights, as a placeholder for one that has been moved out.
    pub(crate) fn placeholder(device: &Device) -> Self {
        Self::Llama(Decoder::placeholder(device))
    }

    /// The embeddings of tokens, which are the input of the first layer.
    ///
    /// # Shapes
    /// - ids `[T]`, output `[T, D]`: `T` tokens, `D` hidden size
    pub(crate) fn embed(&self, ids: Tensor<1, Int>) -> Tensor<2> {
        with_decoder!(self, decoder => decoder.embed(ids))
    }

    /// Adds the gradients of [`Network::embed`]'s output to the gradient of the embedding table.
    pub(crate) fn add_embedding_gradients(
        &self,
        gradients: &mut WeightGradients,
        ids: Tensor<1, Int>,
        rows: Tensor<2>,
    ) {
        with_decoder!(self, decoder => decoder.add_embedding_gradients(gradients, ids, rows));
    }

    /// The hidden states after the last normalization.
    ///
    /// # Shapes
    /// - embedded and output `[T, D]`
    pub(crate) fn forward(
        &self,
        embedded: Tensor<2>,
        rotation: &Rotation,
        attention: &mut impl Attention,
    ) -> Tensor<2> {
        with_decoder!(self, decoder => decoder.forward(embedded, rotation, attention))
    }

    /// The output head's weight, `[V, D]`; the embedding table if the two are tied.
    pub(crate) fn head(&self) -> Tensor<2> {
        with_decoder!(self, decoder => decoder.head())
    }

    /// The device that holds the weights.
    pub(crate) fn device(&self) -> Device {
        with_decoder!(self, decoder => decoder.device())
    }

    /// Every projection inside the layers, with the index of its layer.
    pub(crate) fn projections(&mut self) -> Vec<(usize, Projection, &mut Linear)> {
        with_decoder!(self, decoder => decoder.projections().collect())
    }

    /// As [`Network::forward`] up to the last layer, storing the input of each layer.
    pub(crate) fn layer_inputs(
        &self,
        ids: Tensor<1, Int>,
        rotation: &Rotation,
        attention: &mut impl Attention,
    ) -> LayerInputs {
        with_decoder!(self, decoder => decoder.layer_inputs(ids, rotation, attention))
    }

    /// The last normalization: from the output of the last layer to that of [`Network::forward`].
    pub(crate) fn normalize(&self, last: Tensor<2>) -> Tensor<2> {
        with_decoder!(self, decoder => decoder.normalize(last))
    }

    /// The gradients of an objective with respect to all trainable weights, one layer after the other:
    /// see [`LayerInputs`].
    pub(crate) fn gradients(
        &self,
        ids: Tensor<1, Int>,
        inputs: LayerInputs,
        rotation: &Rotation,
        attention: &mut impl Attention,
        objective: impl FnOnce(Tensor<2>, Tensor<2>) -> Tensor<1>,
    ) -> WeightGradients {
        with_decoder!(self, decoder => {
            decoder.gradients(ids, inputs, rotation, attention, objective)
        })
    }
}
