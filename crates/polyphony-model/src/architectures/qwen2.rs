//! The Qwen2 architecture (Yang et al., 2024, arXiv 2407.10671), which Qwen2.5 also uses: Llama with biases on
//! queries, keys and values.

use super::{GgufVariant, Row};
use crate::config::Parts;

pub(super) const ROW: Row = Row {
    class: "Qwen2ForCausalLM",
    model_type: "qwen2",
    max_positions: 32_768,
    head_size: None,
    parts: |keys, layers| {
        keys.no_variants(layers)?;
        Ok(Parts {
            attention_bias: true,
            ..Parts::default()
        })
    },
    gguf: GgufVariant {
        switches_off: &["use_sliding_window"],
        rotary_pairs: false,
        rope_divisors: false,
    },
};
