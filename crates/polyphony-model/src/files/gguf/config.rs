//! Builds the Hugging Face configuration files from a GGUF file's metadata.

use serde_json::{Value, json};

use super::keys::ModelKeys;
use super::reader::Gguf;
use super::rope::{Rotary, rope_scaling};
use crate::{architectures::Architecture, error::ModelError};

/// The `config.json` that the model had before it was converted to GGUF.
///
/// # Errors
/// If the model's variant or rope type is not supported, or a size is missing or of the wrong type.
pub(crate) fn config_json(
    keys: ModelKeys<'_>,
    architecture: Architecture,
) -> Result<Value, ModelError> {
    let gguf = keys.gguf;
    let row = architecture.row();
    let settings = (row.gguf.settings)(keys)?;
    let hidden_size = keys.size("embedding_length")?;
    let heads = keys.size("attention.head_count")?;
    let head_size = match keys.whole("attention.key_length")? {
        Some(size) => size,
        None => hidden_size / heads,
    };
    for key in ["attention.value_length", "rope.dimension_count"] {
        if let Some(size) = keys.whole(key)?.filter(|size| *size != head_size) {
            let allowed = format!("the head size, {head_size} (all that is supported)");
            return Err(keys.invalid(key, size, allowed));
        }
    }
    let vocab_size = match keys.whole("vocab_size")? {
        Some(size) => size,
        None => match gguf.texts("tokenizer.ggml.tokens")? {
            Some(tokens) => tokens.len() as u64,
            None => return Err(gguf.missing("tokenizer.ggml.tokens", "the vocabulary")),
        },
    };
    let rotary = Rotary {
        theta: keys.positive("rope.freq_base")?.unwrap_or(row.rope_theta),
        head_size,
        max_positions: keys.size("context_length")?,
        has_divisors: row.gguf.rope_divisors,
    };
    let mut config = json!({
        "architectures": [row.class],
        "attention_dropout": 0.0,
        "bos_token_id": gguf.whole("tokenizer.ggml.bos_token_id")?,
        "eos_token_id": gguf.whole("tokenizer.ggml.eos_token_id")?,
        "head_dim": head_size,
        "hidden_size": hidden_size,
        "intermediate_size": keys.size("feed_forward_length")?,
        "max_position_embeddings": rotary.max_positions,
        "model_type": row.model_type,
        "num_attention_heads": heads,
        "num_hidden_layers": keys.size("block_count")?,
        "num_key_value_heads": keys.whole("attention.head_count_kv")?.unwrap_or(heads),
        "pad_token_id": gguf.whole("tokenizer.ggml.padding_token_id")?,
        "rms_norm_eps": keys.positive("attention.layer_norm_rms_epsilon")?,
        "rope_scaling": rope_scaling(keys, rotary)?,
        "rope_theta": rotary.theta,
        "tie_word_embeddings": gguf.tensor("output.weight").is_none(),
        "torch_dtype": "float32",
        "use_cache": true,
        "vocab_size": vocab_size,
    });
    if let Value::Object(settings) = settings {
        for (key, value) in settings {
            config[key] = value;
        }
    }
    Ok(config)
}

/// The `generation_config.json`: which tokens begin, end and pad a text.
///
/// # Errors
/// If an id is not a whole number.
pub(crate) fn generation_config_json(gguf: &Gguf<'_>) -> Result<Value, ModelError> {
    let mut ends: Vec<u64> = Vec::new();
    for key in ["eos_token_id", "eot_token_id", "eom_token_id"] {
        if let Some(id) = gguf.whole(&format!("tokenizer.ggml.{key}"))?
            && !ends.contains(&id)
        {
            ends.push(id);
        }
    }
    let ends = match ends[..] {
        [] => Value::Null,
        [end] => json!(end),
        _ => json!(ends),
    };
    Ok(json!({
        "_from_model_config": true,
        "bos_token_id": gguf.whole("tokenizer.ggml.bos_token_id")?,
        "eos_token_id": ends,
        "pad_token_id": gguf.whole("tokenizer.ggml.padding_token_id")?,
    }))
}

/// The `tokenizer_config.json`: the special tokens by role.
///
/// # Errors
/// If an id is not a whole number or beyond the vocabulary.
pub(crate) fn tokenizer_config_json(keys: ModelKeys<'_>) -> Result<Value, ModelError> {
    let gguf = keys.gguf;
    let tokens = gguf.texts("tokenizer.ggml.tokens")?.unwrap_or_default();
    let mut config = json!({
        "add_prefix_space": false,
        "clean_up_tokenization_spaces": false,
        "model_max_length": keys.whole("context_length")?,
        // The class that uses tokenizer.json unchanged.
        "tokenizer_class": "PreTrainedTokenizerFast",
    });
    for (role, key) in [
        ("bos_token", "tokenizer.ggml.bos_token_id"),
        ("eos_token", "tokenizer.ggml.eos_token_id"),
        ("pad_token", "tokenizer.ggml.padding_token_id"),
        ("unk_token", "tokenizer.ggml.unknown_token_id"),
    ] {
        let Some(id) = gguf.whole(key)? else { continue };
        let token = usize::try_from(id).ok().and_then(|id| tokens.get(id));
        let token = token.ok_or_else(|| {
            gguf.invalid(
                key,
                id,
                format!("below the vocabulary's size, {}", tokens.len()),
            )
        })?;
        config[role] = json!(token);
    }
    Ok(config)
}
