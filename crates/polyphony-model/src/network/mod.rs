//! The networks: one file an architecture, and what they share.

pub(crate) mod attention;
mod layers;
mod llama;
pub(crate) mod rope;
mod weights;

pub(crate) use attention::Attention;
pub(crate) use llama::Llama;
pub(crate) use weights::{WeightReader, named_weights};
