//! Opens models in the form of Hugging Face directories.

use std::path::Path;

use serde_json::Value;

use super::ModelFiles;
use super::assets::{ModelAssets, absolute};
use super::read::{optional_json, optional_text, read_json};
use super::shards;
use super::stop_tokens::stop_tokens;
use super::template::{self, ChatTemplate, embedded_template, token_text};
use super::tokenizer::{self, Tokenizer};
use super::weights::Weights;
use crate::config::ModelConfig;
use crate::error::ModelError;

/// Opens a directory with `config.json` and weights, either in `model.safetensors` or in several files that
/// `model.safetensors.index.json` lists. Tokenizer, chat template and generation configuration are optional.
///
/// # Errors
/// If a file is missing, unreadable or damaged, or any part of the model is not supported.
pub(crate) fn open(directory: &Path) -> Result<ModelFiles, ModelError> {
    let config_path = directory.join("config.json");
    let expected = "the configuration of a model in Hugging Face form";
    let config_json = read_json(&config_path, expected)?;
    let config = ModelConfig::from_json(&config_json, &config_path)?;
    let weights = open_weights(directory, &config)?;

    let generation_path = directory.join("generation_config.json");
    let generation_config: Option<Value> = optional_json(&generation_path)?;
    let mut ends = vec![(&config_json, config_path.as_path())];
    ends.extend(
        generation_config
            .as_ref()
            .map(|json| (json, generation_path.as_path())),
    );
    let stop_tokens = stop_tokens(&ends, config.vocab_size)?;
    let assets = ModelAssets {
        source: absolute(directory),
        config: config_json,
        generation_config,
        tokenizer: None,
        tokenizer_config: None,
        chat_template: None,
    };
    let mut files = ModelFiles {
        config,
        weights,
        adapter: None,
        tokenizer: None,
        template: None,
        stop_tokens,
        assets,
    };
    read_tokenizer_and_template(&mut files, directory)?;
    Ok(files)
}

/// Replaces a model's tokenizer and chat template by those in a directory, if it has any. A new tokenizer
/// without a chat template also removes the model's template, which may need tokens that the tokenizer lacks.
///
/// # Errors
/// If a file is unreadable or damaged, or names a token that the tokenizer lacks.
pub(super) fn read_tokenizer_and_template(
    files: &mut ModelFiles,
    directory: &Path,
) -> Result<(), ModelError> {
    let assets = &mut files.assets;
    let tokenizer_path = directory.join("tokenizer.json");
    if let Some(json) = tokenizer::optional_json(&tokenizer_path)? {
        files.tokenizer = Some(Tokenizer::from_json(&json, &tokenizer_path)?);
        assets.tokenizer = Some(json);
        // Files of another tokenizer may name tokens that this one lacks.
        assets.tokenizer_config = None;
        assets.chat_template = None;
        files.template = None;
    }
    let config_path = directory.join("tokenizer_config.json");
    let config: Option<Value> = optional_json(&config_path)?;
    if let (Some(tokenizer), Some(config)) = (&files.tokenizer, &config) {
        let model = [Some(&assets.config), assets.generation_config.as_ref()];
        let model = model.into_iter().flatten();
        let model: Vec<_> = model
            .map(|config| (config, assets.source.as_path()))
            .collect();
        if stop_tokens(&model, files.config.vocab_size)?.is_empty() {
            let end = end_of_sequence(tokenizer, config, &config_path)?;
            files.stop_tokens = end.into_iter().collect();
        }
    }
    let template_path = directory.join("chat_template.jinja");
    let chat_template = optional_text(&template_path, template::MAX_SOURCE as u64)?;
    let embedded = config.as_ref().and_then(embedded_template);
    let template = match (&chat_template, embedded) {
        (Some(source), _) => Some((source.clone(), template_path)),
        (None, Some(source)) => Some((source.to_owned(), config_path)),
        (None, None) => None,
    };
    assets.tokenizer_config = config.or(assets.tokenizer_config.take());
    if let Some((source, path)) = template {
        let tokens = assets.tokenizer_config.as_ref();
        files.template = Some(ChatTemplate::new(&source, tokens, &path)?);
        // `None` if the new template is embedded, so that the old template's file is not saved.
        assets.chat_template = chat_template;
    }
    Ok(())
}

/// The id of the `eos_token` that a `tokenizer_config.json` names.
///
/// # Errors
/// If it is not a token of the tokenizer.
fn end_of_sequence(
    tokenizer: &Tokenizer,
    tokenizer_config: &Value,
    path: &Path,
) -> Result<Option<u32>, ModelError> {
    const KEY: &str = "eos_token";
    let Some(text) = tokenizer_config.get(KEY).and_then(token_text) else {
        return Ok(None);
    };
    match tokenizer.token_id(&text) {
        Some(id) => Ok(Some(id)),
        None => Err(ModelError::InvalidValue {
            path: path.to_owned(),
            key: KEY.to_owned(),
            given: format!("{text:?}"),
            allowed: "a token of tokenizer.json".to_owned(),
        }),
    }
}

fn open_weights(directory: &Path, config: &ModelConfig) -> Result<Weights, ModelError> {
    let path = directory.join("model.safetensors");
    let index = directory.join("model.safetensors.index.json");
    let mut weights = match !path.exists() && index.exists() {
        true => shards::open(&index)?,
        false => Weights::open(&path)?,
    };
    // As in transformers, some tensors are ignored: rotary tables of old exports, and the matrix of a
    // tied head that an exporter wrote twice.
    weights.retain(|name| {
        let duplicate_head = config.tied_head && name == "lm_head.weight";
        !(duplicate_head || name.ends_with(".rotary_emb.inv_freq"))
    });
    Ok(weights)
}
