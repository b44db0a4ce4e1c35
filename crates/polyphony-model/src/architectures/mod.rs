//! The architectures that the crate runs: one file and one row of [`Architecture::ALL`] each.
//!
//! A row says how files name the architecture, and which parts its layers are made of. Everything else is
//! derived from the [`Parts`]: names and shapes of tensors, the network, memory, and the targets of adapters.

mod gemma3;
mod llama;
mod qwen2;
mod qwen3;
mod qwen3_moe;

use std::fmt;

use serde_json::Value;

use crate::{
    ModelError,
    config::{Keys, Parts},
    files::ModelKeys,
};

/// A family of networks, such as Llama or Qwen3.
#[derive(Clone, Copy)]
pub struct Architecture(&'static Row);

/// What must be known about an architecture.
pub(crate) struct Row {
    /// The class that a Hugging Face configuration names.
    pub(crate) class: &'static str,
    /// The model type in a Hugging Face configuration.
    pub(crate) model_type: &'static str,
    /// The default of `max_position_embeddings` in transformers.
    pub(crate) max_positions: usize,
    /// The default of `head_dim`, if it does not follow from the other sizes.
    pub(crate) head_size: Option<usize>,
    /// The default of the rotary embedding's base.
    pub(crate) rope_theta: f64,
    /// The default of `tie_word_embeddings`.
    pub(crate) tied_head: bool,
    /// Reads the parts of the layers from a configuration. Refuses settings that the network does not
    /// implement. The second argument is the number of layers.
    pub(crate) parts: fn(&Keys<'_>, usize) -> Result<Parts, ModelError>,
    /// How the architecture's GGUF files differ from others.
    pub(crate) gguf: GgufVariant,
}

/// How an architecture's GGUF files differ from others.
pub(crate) struct GgufVariant {
    /// llama.cpp's name of the architecture.
    pub(crate) name: &'static str,
    /// The settings of a `config.json` that only this architecture has, from the metadata. Refuses variants
    /// that llama.cpp stores under the same name but the network does not implement.
    pub(crate) settings: fn(ModelKeys<'_>) -> Result<Value, ModelError>,
    /// Whether llama.cpp's converter reorders the rows of query and key projections, so that rows that are
    /// rotated together are adjacent.
    pub(crate) rotary_pairs: bool,
    /// Whether a tensor may hold divisors of the rotary embedding's frequencies.
    pub(crate) rope_divisors: bool,
}

/// Refuses experts and a sliding window.
fn no_gguf_variants(keys: ModelKeys<'_>) -> Result<(), ModelError> {
    no_experts(keys)?;
    let context = keys.whole("context_length")?;
    let window = keys.whole("attention.sliding_window")?;
    match window.filter(|window| *window > 0 && Some(*window) < context) {
        Some(window) => {
            let allowed = "absent or at least the context (no sliding window is supported)";
            Err(keys.invalid("attention.sliding_window", window, allowed))
        }
        None => Ok(()),
    }
}

fn no_experts(keys: ModelKeys<'_>) -> Result<(), ModelError> {
    let Some(experts) = keys.whole("expert_count")?.filter(|experts| *experts > 0) else {
        return Ok(());
    };
    let name = keys.name;
    let given = format!("{name} with {experts} experts");
    Err(keys
        .gguf
        .unsupported("architecture", &given, &format!("{name} without experts")))
}

impl Architecture {
    /// Llama, as used by SmolLM2 and Llama 3.
    pub const LLAMA: Self = Self(&llama::ROW);
    /// Qwen2 and Qwen2.5.
    pub const QWEN2: Self = Self(&qwen2::ROW);
    /// Qwen3.
    pub const QWEN3: Self = Self(&qwen3::ROW);

    /// Qwen3 with a mixture of experts.
    pub const QWEN3_MOE: Self = Self(&qwen3_moe::ROW);
    /// The text models of Gemma 3.
    pub const GEMMA3: Self = Self(&gemma3::ROW);

    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::LLAMA,
        Self::QWEN2,
        Self::QWEN3,
        Self::QWEN3_MOE,
        Self::GEMMA3,
    ];

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
