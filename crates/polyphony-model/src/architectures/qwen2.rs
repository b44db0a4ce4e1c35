//! The Qwen2 architecture (Yang et al., 2024, arXiv 2407.10671), which Qwen2.5 also uses: Llama with biases on
//! queries, keys and values.

use serde_json::json;

use super::row::{GgufVariant, Row, no_gguf_variants};
use crate::config::Parts;

pub(super) const ROW: Row = Row {
    class: "Qwen2ForCausalLM",
    model_type: "qwen2",
    max_positions: 32_768,
    head_size: None,
    rope_theta: 1e4,
    rope_layer_type: None,
    tied_head: false,
    parts: |keys, layers| {
        keys.no_variants(layers)?;
        Ok(Parts {
            attention_bias: true,
            ..Parts::default()
        })
    },
    gguf: GgufVariant {
        name: "qwen2",
        settings: |keys| {
            no_gguf_variants(keys)?;
            Ok(json!({"use_sliding_window": false, "hidden_act": "silu"}))
        },
        norm_offset: 0.0,
        rotary_pairs: false,
        rope_divisors: false,
    },
};
