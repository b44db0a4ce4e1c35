//! The network, and the parts that it is made of.

pub(crate) mod attention;
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
pub(crate) use decoder::Decoder;
pub(crate) use low_rank::LoraAdapter;
pub(crate) use recompute::LayerInputs;
pub(crate) use weights::{WeightReader, named_weights};
