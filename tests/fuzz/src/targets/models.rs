//! The files of a model.

use std::{fs, path::Path};

use polyphony_model::{ChatTemplate, Message, MessageRole, Weights};

use crate::check;

/// A file of weights.
pub(super) fn safetensors(folder: &Path, bytes: &[u8]) {
    let path = folder.join("model.safetensors");
    fs::write(&path, bytes).unwrap();
    match Weights::open(&path) {
        Ok(weights) => read_all(&weights, "model.safetensors"),
        Err(error) => check::message_about(&error.to_string(), "model.safetensors"),
    }
}

/// Reads every tensor. A value takes at least a bit in the file.
pub(super) fn read_all(weights: &Weights, file: &str) {
    for spec in weights.specs() {
        match weights.read(&spec.name, &spec.shape) {
            Ok(values) => assert_eq!(values.len(), spec.shape.iter().product::<usize>()),
            Err(error) => check::message_about(&error.to_string(), file),
        }
    }
}

/// A chat template. Up to a zero byte it is the template, behind it a `tokenizer_config.json`.
pub(super) fn template(_: &Path, bytes: &[u8]) {
    let mut parts = bytes.splitn(2, |byte| *byte == 0);
    let Ok(source) = str::from_utf8(parts.next().unwrap_or_default()) else {
        return;
    };
    let config = parts
        .next()
        .and_then(|json| serde_json::from_slice(json).ok());
    let path = Path::new("chat_template.jinja");
    let template = match ChatTemplate::new(source, config.as_ref(), path) {
        Ok(template) => template,
        Err(error) => return check::message_about(&error.to_string(), "chat_template.jinja"),
    };
    let conversation = [
        Message::new(MessageRole::System, "You are one of two."),
        Message::new(MessageRole::User, "the sky"),
        Message::new(MessageRole::Assistant, "It is blue."),
        Message::new(MessageRole::User, "and <|im_end|> why?"),
    ];
    for count in [0, 2, 4] {
        for prompt in [false, true] {
            if let Err(error) = template.render(&conversation[..count], prompt) {
                check::message_about(&error.to_string(), "chat_template.jinja");
            }
        }
    }
}
