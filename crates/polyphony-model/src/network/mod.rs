//! The network, and the parts that it is made of.

pub(crate) mod attention;
#[cfg(feature = "cube")]
mod decode_weights;
mod decoder;
mod experts;
mod layer;
mod layers;
mod low_rank;
mod mlp;
mod recompute;
pub(crate) mod rope;
mod weights;

pub(crate) use attention::Attention;
#[cfg(feature = "cube")]
pub(crate) use decode_weights::{DecodeFeedForward, DecodeLayer, DecodeWeights};
pub(crate) use decoder::Decoder;
pub(crate) use low_rank::LoraAdapter;
pub(crate) use recompute::LayerInputs;
pub(crate) use weights::{WeightReader, named_weights};
