//! The architectures that the crate runs: one file and one row of [`Architecture::ALL`] each.
//!
//! A row says how files name the architecture, and which parts its layers are made of. Everything else is
//! derived from the [`Parts`]: names and shapes of tensors, the network, memory, and the targets of adapters.

mod llama;
mod qwen2;
mod qwen3;

use std::fmt;

use crate::{
    ModelError,
    config::{Keys, Parts},
};

/// A family of networks, such as Llama or Qwen3.
#[derive(Clone, Copy)]
pub struct Architecture(&'static Row);

/// What must be known about an architecture.
pub(crate) struct Row {
    /// The class that a Hugging Face configuration names.
    pub(crate) class: &'static str,
    /// The model type in a Hugging Face configuration. llama.cpp uses the same name in GGUF files.
    pub(crate) model_type: &'static str,
    /// The default of `max_position_embeddings` in transformers.
    pub(crate) max_positions: usize,
    /// The default of `head_dim`, if it does not follow from the other sizes.
    pub(crate) head_size: Option<usize>,
    /// Reads the parts of the layers from a configuration. Refuses settings that the network does not
    /// implement. The second argument is the number of layers.
    pub(crate) parts: fn(&Keys<'_>, usize) -> Result<Parts, ModelError>,
    /// How the architecture's GGUF files differ from others.
    pub(crate) gguf: GgufVariant,
}

/// How an architecture's GGUF files differ from others.
pub(crate) struct GgufVariant {
    /// Settings that are always off, but that the class expects in a `config.json`.
    pub(crate) switches_off: &'static [&'static str],
    /// Whether llama.cpp's converter reorders the rows of query and key projections, so that rows that are
    /// rotated together are adjacent.
    pub(crate) rotary_pairs: bool,
    /// Whether a tensor may hold divisors of the rotary embedding's frequencies.
    pub(crate) rope_divisors: bool,
}

impl Architecture {
    /// Llama, as used by SmolLM2 and Llama 3.
    pub const LLAMA: Self = Self(&llama::ROW);
    /// Qwen2 and Qwen2.5.
    pub const QWEN2: Self = Self(&qwen2::ROW);
    /// Qwen3.
    pub const QWEN3: Self = Self(&qwen3::ROW);

    /// All of them.
    pub const ALL: [Self; 3] = [Self::LLAMA, Self::QWEN2, Self::QWEN3];

    pub(crate) fn row(self) -> &'static Row {
        self.0
    }
}

impl PartialEq for Architecture {
    fn eq(&self, other: &Self) -> bool {
        self.0.class == other.0.class
    }
}

impl Eq for Architecture {}

impl fmt::Debug for Architecture {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.0.class)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique() {
        for (index, one) in Architecture::ALL.into_iter().enumerate() {
            for other in &Architecture::ALL[..index] {
                assert_ne!(one, *other);
                assert_ne!(one.row().model_type, other.row().model_type);
            }
        }
    }
}
