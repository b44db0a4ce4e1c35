//! The sizes and constants of a network, read from a Hugging Face `config.json`.
//!
//! Both forms are read: the older one (`rope_theta` and `rope_scaling` at the top level) and that of
//! transformers 5 (`rope_parameters`). A setting that the network does not implement is an error, so
//! that no model silently runs wrong.

use std::path::Path;

use serde_json::Value;

pub(crate) use self::keys::Keys;
pub use self::memory::WeightSize;
pub(crate) use self::parts::{ExpertSizes, Parts, Window};
pub use self::rope::{Rope, RopeScaling};
pub(crate) use self::tensors::LayerTensor;
use crate::{architectures::Architecture, error::ModelError};

mod keys;
mod memory;
mod parts;
mod rope;
mod tensors;
mod variants;

/// Sizes and constants of a network.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// The family of networks.
    pub architecture: Architecture,
    /// What the layers are made of.
    pub(crate) parts: Parts,
    /// Number of tokens that have an embedding.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward layers.
    pub intermediate_size: usize,
    /// Number of transformer layers.
    pub layers: usize,
    /// Query heads per layer.
    pub heads: usize,
    /// Key and value heads per layer; divides `heads`.
    pub kv_heads: usize,
    /// Width of one head; even, and not always `hidden_size / heads`.
    pub head_size: usize,
    /// What RMS norm adds to the mean square before taking the root.
    pub norm_epsilon: f64,
    /// The rotary embedding.
    pub rope: Rope,
    /// The longest sequence that the model supports, in tokens.
    pub max_positions: usize,
    /// Whether the output head shares the embedding's weights.
    pub tied_head: bool,
}

impl ModelConfig {
    /// Reads a Hugging Face `config.json`; `path` is where it came from, for messages.
    ///
    /// Absent keys take the defaults of the architecture's configuration in transformers, with two
    /// exceptions. `vocab_size`, `hidden_size`, `intermediate_size`, `num_hidden_layers` and
    /// `num_attention_heads` must be there, and the default of `num_key_value_heads` is
    /// `num_attention_heads` in every architecture.
    ///
    /// # Errors
    /// If a required size is missing, a value is out of range, or the architecture, rope type, activation,
    /// bias or sliding-window setting is not supported.
    pub fn from_json(config: &Value, path: &Path) -> Result<Self, ModelError> {
        let keys = Keys {
            object: config,
            path,
        };
        let architecture = keys.architecture()?;
        let row = architecture.row();
        let layers = keys.layers()?;
        let parts = (row.parts)(&keys, layers)?;

        let hidden_size = keys.size("hidden_size")?;
        let heads = keys.size("num_attention_heads")?;
        let kv_heads = keys.optional_size("num_key_value_heads")?.unwrap_or(heads);
        if !heads.is_multiple_of(kv_heads) {
            let allowed = format!("a divisor of `num_attention_heads`, {heads}");
            return Err(keys.invalid("num_key_value_heads", kv_heads, allowed));
        }
        let head_size = match keys.optional_size("head_dim")?.or(row.head_size) {
            Some(size) => size,
            None if hidden_size.is_multiple_of(heads) => hidden_size / heads,
            None => {
                let allowed = format!("a multiple of `num_attention_heads`, {heads}");
                return Err(keys.invalid("hidden_size", hidden_size, allowed));
            }
        };
        if head_size % 2 == 1 {
            return Err(keys.invalid("head_dim", head_size, "even, for the rotary embedding"));
        }
        let max_positions = keys.optional_size("max_position_embeddings")?;
        let max_positions = max_positions.unwrap_or(row.max_positions);

        Ok(Self {
            architecture,
            parts,
            vocab_size: keys.size("vocab_size")?,
            hidden_size,
            intermediate_size: keys.size("intermediate_size")?,
            layers,
            heads,
            kv_heads,
            head_size,
            norm_epsilon: keys.positive("rms_norm_eps")?.unwrap_or(1e-6),
            rope: keys.rope(max_positions, row.rope_theta, row.rope_layer_type)?,
            max_positions,
            tied_head: keys.switch("tie_word_embeddings")?.unwrap_or(row.tied_head),
        })
    }
}

/// No network is deeper. Without the bound, a wrong number would be noticed only after a long time, because
/// the tensors of all layers are looked up first.
const MAX_LAYERS: usize = 4096;

impl Keys<'_> {
    fn layers(&self) -> Result<usize, ModelError> {
        const KEY: &str = "num_hidden_layers";
        match self.size(KEY)? {
            layers if layers <= MAX_LAYERS => Ok(layers),
            layers => Err(self.invalid(KEY, layers, format!("at most {MAX_LAYERS}"))),
        }
    }

    /// The architecture that both `architectures` and `model_type` name. An absent key fits them all.
    fn architecture(&self) -> Result<Architecture, ModelError> {
        let supported = Architecture::ALL.map(|known| {
            format!(
                "{} (model_type {})",
                known.row().class,
                known.row().model_type
            )
        });
        let supported = supported.join(", ");
        let class = self
            .get("architectures")
            .map(|list| list.get(0).unwrap_or(list));
        let model_type = self.get("model_type");
        let Some(first) = class.or(model_type) else {
            return Err(ModelError::MissingKey {
                path: self.path.to_owned(),
                key: "architectures".to_owned(),
                expected: format!("a list with one of: {supported}"),
            });
        };
        let fits = |known: &Architecture| {
            class.is_none_or(|given| given == known.row().class)
                && model_type.is_none_or(|given| given == known.row().model_type)
        };
        let known = Architecture::ALL.into_iter().find(fits);
        known.ok_or_else(|| {
            let named = |known: &Architecture| first == known.row().class;
            // If the class is known, the error is that the model type does not belong to it.
            let unknown = match Architecture::ALL.iter().any(named) {
                true => model_type.unwrap_or(first),
                false => first,
            };
            self.unsupported("architecture", unknown, &supported)
        })
    }
}

#[cfg(test)]
mod tests;
