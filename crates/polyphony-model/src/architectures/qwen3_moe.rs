//! The Qwen3 architecture with a mixture of experts (Yang et al., 2025, arXiv 2505.09388): Qwen3 whose
//! feed-forward layers are many small ones, of which a router chooses some for every token.

use serde_json::{Value, json};

use super::{GgufVariant, Row};
use crate::{
    ModelError,
    config::{ExpertSizes, Keys, Parts},
    files::ModelKeys,
};

pub(super) const ROW: Row = Row {
    class: "Qwen3MoeForCausalLM",
    model_type: "qwen3_moe",
    max_positions: 32_768,
    head_size: None,
    rope_theta: 1e4,
    tied_head: false,
    parts,
    gguf: GgufVariant {
        name: "qwen3moe",
        settings: gguf_settings,
        rotary_pairs: false,
        rope_divisors: false,
    },
};

/// No network has more experts. Without the bound, a wrong number would be noticed only after a long time, because
/// the tensors of all experts are looked up first.
const MAX_EXPERTS: usize = 1 << 16;

fn parts(keys: &Keys<'_>, layers: usize) -> Result<Parts, ModelError> {
    keys.no_variants(layers)?;
    // Every layer must have experts.
    keys.only("decoder_sparse_step", 1)?;
    keys.only_empty("mlp_only_layers")?;
    let count = keys.optional_size("num_experts")?.unwrap_or(128);
    if count.saturating_mul(layers) > MAX_EXPERTS {
        let allowed = format!("at most {MAX_EXPERTS} in all layers together");
        return Err(keys.invalid("num_experts", count, allowed));
    }
    let chosen = keys.optional_size("num_experts_per_tok")?.unwrap_or(8);
    if chosen > count {
        let allowed = format!("at most `num_experts`, {count}");
        return Err(keys.invalid("num_experts_per_tok", chosen, allowed));
    }
    Ok(Parts {
        query_key_norm: true,
        experts: Some(ExpertSizes {
            count,
            chosen,
            intermediate_size: keys.optional_size("moe_intermediate_size")?.unwrap_or(768),
            normalized: keys.switch("norm_topk_prob")?.unwrap_or(false),
        }),
        ..Parts::default()
    })
}

/// llama.cpp normalizes the factors of the experts in every model of this architecture, and does not store
/// whether it should.
fn gguf_settings(keys: ModelKeys<'_>) -> Result<Value, ModelError> {
    Ok(json!({
        "attention_bias": false,
        "decoder_sparse_step": 1,
        "hidden_act": "silu",
        "mlp_only_layers": [],
        "moe_intermediate_size": keys.size("expert_feed_forward_length")?,
        "norm_topk_prob": true,
        "num_experts": keys.size("expert_count")?,
        "num_experts_per_tok": keys.size("expert_used_count")?,
        "use_sliding_window": false,
    }))
}
