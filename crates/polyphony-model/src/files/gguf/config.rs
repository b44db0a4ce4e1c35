//! Hugging Face configuration files from a GGUF file's metadata.

use serde_json::{Value, json};

use super::reader::Gguf;
use crate::error::ModelError;

/// The `config.json` that the model had before it was converted to GGUF.
///
/// # Errors
/// If the architecture or rope type is not supported, or a size is missing or of the wrong kind.
pub(crate) fn config_json(gguf: &Gguf<'_>) -> Result<Value, ModelError> {
    let architecture = gguf.text("general.architecture")?;
    match architecture {
        Some("llama") => {}
        Some(other) => return Err(gguf.unsupported("architecture", other, "llama")),
        None => return Err(gguf.missing("general.architecture", "the text `llama`")),
    }
    refuse_variants(gguf)?;

    let hidden_size = size(gguf, "llama.embedding_length")?;
    let heads = size(gguf, "llama.attention.head_count")?;
    let head_size = match gguf.whole("llama.attention.key_length")? {
        Some(size) => size,
        None => hidden_size / heads,
    };
    for key in ["llama.attention.value_length", "llama.rope.dimension_count"] {
        if let Some(other) = gguf.whole(key)?.filter(|other| *other != head_size) {
            let allowed = format!("the head size, {head_size} (all that is supported)");
            return Err(gguf.invalid(key, other, allowed));
        }
    }
    let vocab_size = match gguf.whole("llama.vocab_size")? {
        Some(size) => size,
        None => match gguf.texts("tokenizer.ggml.tokens")? {
            Some(tokens) => tokens.len() as u64,
            None => return Err(gguf.missing("tokenizer.ggml.tokens", "the vocabulary")),
        },
    };
    Ok(json!({
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": false,
        "attention_dropout": 0.0,
        "bos_token_id": gguf.whole("tokenizer.ggml.bos_token_id")?,
        "eos_token_id": gguf.whole("tokenizer.ggml.eos_token_id")?,
        "head_dim": head_size,
        "hidden_act": "silu",
        "hidden_size": hidden_size,
        "intermediate_size": size(gguf, "llama.feed_forward_length")?,
        "max_position_embeddings": size(gguf, "llama.context_length")?,
        "mlp_bias": false,
        "model_type": "llama",
        "num_attention_heads": heads,
        "num_hidden_layers": size(gguf, "llama.block_count")?,
        "num_key_value_heads": gguf.whole("llama.attention.head_count_kv")?.unwrap_or(heads),
        "pad_token_id": gguf.whole("tokenizer.ggml.padding_token_id")?,
        "rms_norm_eps": gguf.float("llama.attention.layer_norm_rms_epsilon")?,
        "rope_scaling": null,
        "rope_theta": gguf.float("llama.rope.freq_base")?.unwrap_or(10_000.0),
        "tie_word_embeddings": gguf.tensors.iter().all(|tensor| tensor.name != "output.weight"),
        "torch_dtype": "float32",
        "use_cache": true,
        "vocab_size": vocab_size,
    }))
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
pub(crate) fn tokenizer_config_json(gguf: &Gguf<'_>) -> Result<Value, ModelError> {
    let tokens = gguf.texts("tokenizer.ggml.tokens")?.unwrap_or_default();
    let mut config = json!({
        "add_prefix_space": false,
        "clean_up_tokenization_spaces": false,
        "model_max_length": gguf.whole("llama.context_length")?,
        // The class that takes tokenizer.json as it is.
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

/// Refuses what llama.cpp files under `llama` but this crate does not implement.
fn refuse_variants(gguf: &Gguf<'_>) -> Result<(), ModelError> {
    if let Some(experts) = gguf
        .whole("llama.expert_count")?
        .filter(|experts| *experts > 0)
    {
        let given = format!("llama with {experts} experts");
        return Err(gguf.unsupported("architecture", &given, "llama without experts"));
    }
    let scaling = gguf
        .text("llama.rope.scaling.type")?
        .filter(|scaling| *scaling != "none");
    if let Some(scaling) = scaling {
        return Err(gguf.unsupported("rope type", scaling, "default (`none`)"));
    }
    let linear = gguf
        .float("llama.rope.scale_linear")?
        .filter(|factor| *factor != 1.0);
    if linear.is_some() {
        return Err(gguf.unsupported("rope type", "linear", "default (`none`)"));
    }
    if gguf
        .tensors
        .iter()
        .any(|tensor| tensor.name.starts_with("rope_freqs"))
    {
        return Err(gguf.unsupported(
            "rope type",
            "llama3 (tensor rope_freqs)",
            "default (`none`)",
        ));
    }
    Ok(())
}

fn size(gguf: &Gguf<'_>, key: &str) -> Result<u64, ModelError> {
    const EXPECTED: &str = "a whole number of at least 1";
    match gguf.whole(key)? {
        Some(0) => Err(gguf.invalid(key, 0, EXPECTED)),
        Some(size) => Ok(size),
        None => Err(gguf.missing(key, EXPECTED)),
    }
}
