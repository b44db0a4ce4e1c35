//! The text files that accompany a model's weights. They are kept in memory, so that a trained model can
//! be saved as a complete directory.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

/// The contents of a Hugging Face directory except the weights.
#[derive(Clone, Debug)]
pub struct ModelAssets {
    /// The path that the model was opened from; adapters trained on it refer to this path.
    pub(crate) source: PathBuf,
    /// `config.json`.
    pub(crate) config: Value,
    /// `generation_config.json`.
    pub(crate) generation_config: Option<Value>,
    /// `tokenizer.json`, unchanged.
    pub(crate) tokenizer: Option<String>,
    /// `tokenizer_config.json`.
    pub(crate) tokenizer_config: Option<Value>,
    /// `chat_template.jinja`.
    pub(crate) chat_template: Option<String>,
}

impl ModelAssets {
    /// The names and contents of the files to write beside weights in `f32`.
    pub(crate) fn files(&self) -> Vec<(&'static str, String)> {
        let mut files = vec![("config.json", pretty(&self.config_for_f32()))];
        if let Some(config) = &self.generation_config {
            files.push(("generation_config.json", pretty(config)));
        }
        files.extend(self.tokenizer_files());
        files
    }

    /// The files to write beside adapters. The configuration is not among them, since it belongs to the base
    /// model.
    pub(crate) fn tokenizer_files(&self) -> Vec<(&'static str, String)> {
        let mut files = Vec::new();
        if let Some(tokenizer) = &self.tokenizer {
            files.push(("tokenizer.json", tokenizer.clone()));
        }
        if let Some(config) = &self.tokenizer_config {
            files.push(("tokenizer_config.json", pretty(config)));
        }
        if let Some(template) = &self.chat_template {
            files.push(("chat_template.jinja", template.clone()));
        }
        files
    }

    /// The configuration with the number type of the saved weights: transformers loads a model in
    /// the type that its configuration names, whatever the file holds.
    fn config_for_f32(&self) -> Value {
        let mut config = self.config.clone();
        let key = if config.get("dtype").is_some() {
            "dtype"
        } else {
            "torch_dtype"
        };
        config[key] = json!("float32");
        config
    }
}

/// The absolute path, which stays valid when the working directory changes.
pub(super) fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

pub(super) fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}
