//! The text files that accompany a model's weights, kept so that a trained model can be saved as
//! the same kind of directory that it was opened from.

use serde_json::{Value, json};

/// The contents of a Hugging Face directory besides the weights.
#[derive(Clone, Debug)]
pub struct Assets {
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

impl Assets {
    /// The files to write beside weights in `f32`: names and contents.
    pub(crate) fn files(&self) -> Vec<(&'static str, String)> {
        let mut files = vec![("config.json", pretty(&self.config_for_f32()))];
        if let Some(config) = &self.generation_config {
            files.push(("generation_config.json", pretty(config)));
        }
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

fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}
