//! A row of the table of architectures.

use serde_json::Value;

use crate::{
    ModelError,
    config::{Keys, Parts},
    files::ModelKeys,
};

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
    /// The layer type whose parameters are those of the rotary embedding, if `rope_parameters` has parameters
    /// per layer type.
    pub(crate) rope_layer_type: Option<&'static str>,
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
    /// What llama.cpp's converter adds to the weights of norms.
    pub(crate) norm_offset: f32,
    /// Whether llama.cpp's converter reorders the rows of query and key projections, so that rows that are
    /// rotated together are adjacent.
    pub(crate) rotary_pairs: bool,
    /// Whether a tensor may hold divisors of the rotary embedding's frequencies.
    pub(crate) rope_divisors: bool,
}

/// Refuses experts and a sliding window.
pub(super) fn no_gguf_variants(keys: ModelKeys<'_>) -> Result<(), ModelError> {
    no_experts(keys)?;
    no_gguf_window(keys)
}

/// Refuses a sliding window.
pub(super) fn no_gguf_window(keys: ModelKeys<'_>) -> Result<(), ModelError> {
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

/// Refuses experts.
pub(super) fn no_experts(keys: ModelKeys<'_>) -> Result<(), ModelError> {
    let Some(experts) = keys.whole("expert_count")?.filter(|experts| *experts > 0) else {
        return Ok(());
    };
    let name = keys.name;
    let given = format!("{name} with {experts} experts");
    Err(keys
        .gguf
        .unsupported("architecture", &given, &format!("{name} without experts")))
}
