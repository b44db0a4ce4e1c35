//! The Llama architecture (Touvron et al., 2023, arXiv 2302.13971), as SmolLM2 and Llama 3 use it. It has none
//! of the optional parts.

use serde_json::json;

use super::row::{GgufVariant, Row, no_gguf_variants};
use crate::config::Parts;

pub(super) const ROW: Row = Row {
    class: "LlamaForCausalLM",
    model_type: "llama",
    max_positions: 2048,
    head_size: None,
    rope_theta: 1e4,
    rope_layer_type: None,
    tied_head: false,
    parts: |keys, layers| {
        keys.no_variants(layers)?;
        Ok(Parts::default())
    },
    gguf: GgufVariant {
        name: "llama",
        settings: |keys| {
            no_gguf_variants(keys)?;
            Ok(json!({"attention_bias": false, "mlp_bias": false, "hidden_act": "silu"}))
        },
        norm_offset: 0.0,
        rotary_pairs: true,
        rope_divisors: true,
    },
};
