//! The Qwen3 architecture with a mixture of experts (Yang et al., 2025, arXiv 2505.09388): Qwen3 whose
//! feed-forward layers are many small ones, of which a router chooses some for every token.

use serde_json::{Value, json};

use super::row::{GgufVariant, Row, no_gguf_window};
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
    rope_layer_type: None,
    tied_head: false,
    parts,
    gguf: GgufVariant {
        name: "qwen3moe",
        settings: gguf_settings,
        norm_offset: 0.0,
        rotary_pairs: false,
        rope_divisors: false,
    },
};

/// No network has more experts in all layers together. Without the bound, a wrong number would be noticed only
/// after a long time, because the tensors of all experts are looked up first.
const MAX_EXPERTS_OF_ALL_LAYERS: usize = 1 << 16;

fn parts(keys: &Keys<'_>, layers: usize) -> Result<Parts, ModelError> {
    keys.plain_projections()?;
    // Unlike in Qwen3, a window would be one of all layers, whatever `layer_types` says.
    if keys.switch("use_sliding_window")? == Some(true) && !keys.is_null("sliding_window") {
        let allowed = "false (no sliding window is supported), or `sliding_window` null";
        return Err(keys.invalid("use_sliding_window", true, allowed));
    }
    // Every layer must have experts.
    keys.only("decoder_sparse_step", 1)?;
    keys.only_empty("mlp_only_layers")?;
    let count = expert_count(keys)?;
    if count.saturating_mul(layers) > MAX_EXPERTS_OF_ALL_LAYERS {
        let allowed = format!("at most {MAX_EXPERTS_OF_ALL_LAYERS} in all layers together");
        return Err(keys.invalid(EXPERTS, count, allowed));
    }
    let chosen = keys.optional_size("num_experts_per_tok")?.unwrap_or(8);
    if chosen > count {
        let allowed = format!("at most `{EXPERTS}`, {count}");
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

const EXPERTS: &str = "num_experts";

/// The number of experts per layer. Newer versions of transformers write it under another name.
fn expert_count(keys: &Keys<'_>) -> Result<usize, ModelError> {
    match (
        keys.optional_size(EXPERTS)?,
        keys.optional_size("num_local_experts")?,
    ) {
        (Some(count), Some(other)) if count != other => {
            let allowed = format!("the same as `num_local_experts`, {other}");
            Err(keys.invalid(EXPERTS, count, allowed))
        }
        (Some(count), _) | (None, Some(count)) => Ok(count),
        (None, None) => Ok(128),
    }
}

/// llama.cpp normalizes the factors of the experts in every model of this architecture, and does not store
/// whether it should.
fn gguf_settings(keys: ModelKeys<'_>) -> Result<Value, ModelError> {
    no_gguf_window(keys)?;
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
