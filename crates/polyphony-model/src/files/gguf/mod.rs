//! Imports models in llama.cpp's GGUF format.
//!
//! One file holds weights, configuration, tokenizer and chat template. Each part is converted to its
//! Hugging Face counterpart. The rest of the crate thus handles only one form, and an imported model
//! is saved like any other.

mod config;
mod keys;
mod reader;
mod rope;
mod sentence_piece;
mod tensors;
mod tokenizer;
mod value;

use std::path::Path;

pub(crate) use self::keys::ModelKeys;
use self::reader::Gguf;
use super::ModelFiles;
use super::assets::{ModelAssets, absolute};
use super::read::map_file;
use super::stop_tokens::stop_tokens;
use super::template::ChatTemplate;
use super::tokenizer::Tokenizer;
use super::weights::Weights;
use crate::architectures::Architecture;
use crate::config::ModelConfig;
use crate::error::ModelError;

/// Opens a `.gguf` file.
///
/// # Errors
/// If the file is missing or damaged, or any part of the model is not supported.
pub(crate) fn open(path: &Path) -> Result<ModelFiles, ModelError> {
    let file = map_file(path, "a model as one GGUF file")?;
    let gguf = Gguf::parse(&file, path)?;
    if let Some(parts) = gguf.whole("split.count")?.filter(|parts| *parts > 1) {
        let given = format!("one of {parts} parts");
        return Err(gguf.unsupported(
            "GGUF file",
            &given,
            "one whole file (`llama-gguf-split --merge` joins the parts)",
        ));
    }
    let architecture = architecture(&gguf)?;
    let keys = ModelKeys {
        gguf: &gguf,
        name: architecture.row().gguf.name,
    };
    let config_json = config::config_json(keys, architecture)?;
    let config = ModelConfig::from_json(&config_json, path)?;
    let tensors = tensors::hugging_face_tensors(keys, &config)?;

    let generation_config = config::generation_config_json(&gguf)?;
    let stop_tokens = stop_tokens(&[(&generation_config, path)], config.vocab_size)?;
    let tokenizer_json = tokenizer::tokenizer_json(&gguf)?.map(|json| json.to_string());
    let tokenizer = match &tokenizer_json {
        Some(json) => Some(Tokenizer::from_json(json, path)?),
        None => None,
    };
    let tokenizer_config = match tokenizer {
        Some(_) => Some(config::tokenizer_config_json(keys)?),
        None => None,
    };
    let chat_template = gguf.text("tokenizer.chat_template")?.map(str::to_owned);
    let template = match &chat_template {
        Some(source) => Some(ChatTemplate::new(source, tokenizer_config.as_ref(), path)?),
        None => None,
    };
    let assets = ModelAssets {
        source: absolute(path),
        config: config_json,
        generation_config: Some(generation_config),
        tokenizer: tokenizer_json,
        tokenizer_config,
        chat_template,
    };
    let weights = Weights::new(path, file, tensors);
    Ok(ModelFiles {
        config,
        weights,
        adapter: None,
        tokenizer,
        template,
        stop_tokens,
        assets,
    })
}

/// The architecture that the file names.
///
/// # Errors
/// If the file does not name a supported one.
fn architecture(gguf: &Gguf<'_>) -> Result<Architecture, ModelError> {
    const KEY: &str = "general.architecture";
    let supported = Architecture::ALL.map(|known| known.row().gguf.name);
    let supported = supported.join(", ");
    let Some(given) = gguf.text(KEY)? else {
        return Err(gguf.missing(KEY, &format!("one of: {supported}")));
    };
    let mut known = Architecture::ALL.into_iter();
    let named = known.find(|known| known.row().gguf.name == given);
    named.ok_or_else(|| gguf.unsupported("architecture", given, &supported))
}

#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod tests;
