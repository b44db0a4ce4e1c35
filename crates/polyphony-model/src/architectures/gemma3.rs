//! The text models of Gemma 3 (Gemma Team, 2025, arXiv 2503.19786). They differ from Llama in these parts:
//! embeddings are scaled by the root of the hidden size; norms multiply by `1 + w`, and stand after attention
//! and feed-forward too; queries and keys are normalized; the gate is GELU; and five of six layers attend
//! only to the last tokens, with a separate rotary embedding.

use serde_json::{Value, json};

use super::row::{GgufVariant, Row, no_experts};
use crate::{
    ModelError,
    config::{Keys, Parts, Window},
    files::ModelKeys,
    kernels::Activation,
};

pub(super) const ROW: Row = Row {
    class: "Gemma3ForCausalLM",
    model_type: "gemma3_text",
    max_positions: 131_072,
    head_size: Some(256),
    rope_theta: 1e6,
    rope_layer_type: Some("full_attention"),
    tied_head: true,
    parts,
    gguf: GgufVariant {
        name: "gemma3",
        settings: gguf_settings,
        norm_offset: 1.0,
        rotary_pairs: false,
        rope_divisors: false,
    },
};

const WINDOW: &str = "sliding_window";

fn parts(keys: &Keys<'_>, layers: usize) -> Result<Parts, ModelError> {
    keys.only("hidden_activation", "gelu_pytorch_tanh")?;
    keys.only("attention_bias", false)?;
    keys.only("use_bidirectional_attention", false)?;
    keys.absent("final_logit_softcapping")?;
    keys.absent("attn_logit_softcapping")?;
    if keys.is_null(WINDOW) {
        return Err(keys.invalid(WINDOW, Value::Null, "a number of tokens"));
    }
    let hidden_size = keys.size("hidden_size")?;
    Ok(Parts {
        query_key_norm: true,
        norms_after: true,
        norm_offset: 1.0,
        activation: Activation::GeluTanh,
        embedding_scale: (hidden_size as f64).sqrt(),
        query_divisor: Some(
            keys.positive("query_pre_attn_scalar")?
                .unwrap_or(256.0)
                .sqrt(),
        ),
        window: Some(Window {
            tokens: keys.optional_size(WINDOW)?.unwrap_or(4096),
            layers: windowed_layers(keys, layers)?,
            rope: keys.window_rope()?,
        }),
        ..Parts::default()
    })
}

/// For each layer whether it attends only to the last tokens. As in transformers, `layer_types` decides;
/// without it, every sixth layer (or as `sliding_window_pattern` says) attends to all tokens.
fn windowed_layers(keys: &Keys<'_>, layers: usize) -> Result<Vec<bool>, ModelError> {
    if let Some(types) = keys.layer_types(layers)? {
        return Ok(types);
    }
    let pattern = keys.optional_size("sliding_window_pattern")?.unwrap_or(6);
    Ok((1..=layers)
        .map(|layer| !layer.is_multiple_of(pattern))
        .collect())
}

/// The number of layers of the one model (27B) whose scores are divided by another number than the root of the
/// head size. llama.cpp knows it by this number, too.
const LAYERS_OF_27B: u64 = 62;

const PATTERN: &str = "attention.sliding_window_pattern";

fn gguf_settings(keys: ModelKeys<'_>) -> Result<Value, ModelError> {
    no_experts(keys)?;
    let query_scalar = match keys.size("block_count")? {
        LAYERS_OF_27B => keys.size("embedding_length")? / keys.size("attention.head_count")?,
        _ => keys.size("attention.key_length")?,
    };
    let pattern = match keys.whole(PATTERN)? {
        Some(0) => return Err(keys.invalid(PATTERN, 0, "a whole number of at least 1")),
        pattern => pattern.unwrap_or(6),
    };
    let window_theta = keys.positive("rope.freq_base_swa")?;
    Ok(json!({
        "attention_bias": false,
        "attn_logit_softcapping": null,
        "final_logit_softcapping": null,
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": query_scalar,
        "rope_local_base_freq": window_theta.unwrap_or(10_000.0),
        "sliding_window": keys.size("attention.sliding_window")?,
        "sliding_window_pattern": pattern,
        "use_bidirectional_attention": false,
    }))
}
