//! The Qwen3 architecture (Yang et al., 2025, arXiv 2505.09388): Llama with queries and keys normalized head by
//! head before they are rotated.

use super::{GgufVariant, Row};
use crate::config::Parts;

pub(super) const ROW: Row = Row {
    class: "Qwen3ForCausalLM",
    model_type: "qwen3",
    max_positions: 32_768,
    head_size: Some(128),
    parts: |keys, layers| {
        keys.no_variants(layers)?;
        Ok(Parts {
            query_key_norm: true,
            ..Parts::default()
        })
    },
    gguf: GgufVariant {
        switches_off: &["attention_bias", "use_sliding_window"],
        rotary_pairs: false,
        rope_divisors: false,
    },
};
