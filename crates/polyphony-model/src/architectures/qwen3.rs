//! The Qwen3 architecture (Yang et al., 2025, arXiv 2505.09388): Llama with queries and keys normalized head by
//! head before they are rotated.

use serde_json::json;

use super::row::{GgufVariant, Row, no_gguf_variants};
use crate::config::Parts;

pub(super) const ROW: Row = Row {
    class: "Qwen3ForCausalLM",
    model_type: "qwen3",
    max_positions: 32_768,
    head_size: Some(128),
    rope_theta: 1e4,
    rope_layer_type: None,
    tied_head: false,
    parts: |keys, layers| {
        keys.no_variants(layers)?;
        Ok(Parts {
            query_key_norm: true,
            ..Parts::default()
        })
    },
    gguf: GgufVariant {
        name: "qwen3",
        settings: |keys| {
            no_gguf_variants(keys)?;
            Ok(json!({"attention_bias": false, "use_sliding_window": false, "hidden_act": "silu"}))
        },
        norm_offset: 0.0,
        rotary_pairs: false,
        rope_divisors: false,
    },
};
