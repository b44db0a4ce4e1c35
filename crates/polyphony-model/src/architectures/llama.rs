//! The Llama architecture (Touvron et al., 2023, arXiv 2302.13971), as SmolLM2 and Llama 3 use it. It has none
//! of the optional parts.

use super::{GgufVariant, Row};
use crate::config::Parts;

pub(super) const ROW: Row = Row {
    class: "LlamaForCausalLM",
    model_type: "llama",
    max_positions: 2048,
    head_size: None,
    parts: |keys, layers| {
        keys.no_variants(layers)?;
        Ok(Parts::default())
    },
    gguf: GgufVariant {
        switches_off: &["attention_bias", "mlp_bias"],
        rotary_pairs: true,
        rope_divisors: true,
    },
};
