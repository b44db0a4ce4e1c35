//! The networks: one file an architecture, and what they share.

pub(crate) mod attention;
mod decoder;
mod layers;
mod llama;
mod qwen2;
mod qwen3;
pub(crate) mod rope;
mod weights;

use burn::{
    module::Module,
    tensor::{Device, Int, Tensor},
};

pub(crate) use attention::Attention;
pub(crate) use weights::{WeightReader, named_weights};

use self::{
    decoder::Decoder, llama::LlamaAttention, qwen2::Qwen2Attention, qwen3::Qwen3Attention,
    rope::Rotation,
};
use crate::{Architecture, ModelConfig, ModelError};

/// A network of any architecture.
#[derive(Module, Debug)]
pub(crate) enum Network {
    Llama(Decoder<LlamaAttention>),
    Qwen2(Decoder<Qwen2Attention>),
    Qwen3(Decoder<Qwen3Attention>),
}

/// The same expression for the decoder of every architecture.
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

    /// A network without weights, to stand in for one that has been moved out.
    pub(crate) fn hollow(device: &Device) -> Self {
        Self::Llama(Decoder::hollow(device))
    }

    /// The hidden states after the last normalization.
    ///
    /// # Shapes
    /// - ids `[T]`, output `[T, D]`: `T` tokens, `D` hidden size
    pub(crate) fn forward(
        &self,
        ids: Tensor<1, Int>,
        rotation: &Rotation,
        attention: &mut impl Attention,
    ) -> Tensor<2> {
        with_decoder!(self, decoder => decoder.forward(ids, rotation, attention))
    }

    /// The output head's weight, `[V, D]`: its own, or the embedding table where they are tied.
    pub(crate) fn head(&self) -> Tensor<2> {
        with_decoder!(self, decoder => decoder.head())
    }

    /// The device that holds the weights.
    pub(crate) fn device(&self) -> Device {
        with_decoder!(self, decoder => decoder.device())
    }
}
