//! Model directories that combine fixtures of `polyphony-model`.

use std::{fs, path::Path};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::fixtures::fixture;

/// Creates the directory `target` with a model that has a tokenizer and a chat template: `tiny-llama` with
/// the tokenizer and template of `tiny-chat`, and a context of `max_positions` tokens.
///
/// The tokens of control characters, which do not occur in texts, are replaced by words. The model's random
/// responses then have enough words to earn some reward.
pub fn chat_model(target: &Path, max_positions: usize) {
    fs::create_dir_all(target).unwrap();
    for (source, name) in [
        ("tiny-llama", "config.json"),
        ("tiny-llama", "model.safetensors"),
        ("tiny-chat", "tokenizer.json"),
        ("tiny-chat", "tokenizer_config.json"),
        ("tiny-chat", "chat_template.jinja"),
    ] {
        fs::copy(fixture(source).join(name), target.join(name)).unwrap();
    }
    edit_json(&target.join("config.json"), |config| {
        config["max_position_embeddings"] = json!(max_positions);
    });
    edit_json(&target.join("tokenizer.json"), |tokenizer| {
        let vocabulary = tokenizer["model"]["vocab"].as_object_mut().unwrap();
        let control: Vec<String> = ('Ā'..='ğ')
            .filter(|c| *c != 'Ċ')
            .map(String::from)
            .collect();
        for token in control {
            let id = vocabulary.shift_remove(&token).unwrap();
            vocabulary.insert(format!("Ġw{id}"), id);
        }
    });
}

/// Creates the directory `target` with another model and another tokenizer: `tiny-qwen3` with the tokens of
/// [`chat_model`] under other ids, and no chat template.
pub fn other_chat_model(target: &Path, max_positions: usize) {
    chat_model(target, max_positions);
    fs::remove_file(target.join("chat_template.jinja")).unwrap();
    for name in ["config.json", "model.safetensors"] {
        fs::copy(fixture("tiny-qwen3").join(name), target.join(name)).unwrap();
    }
    edit_json(&target.join("config.json"), |config| {
        config["max_position_embeddings"] = json!(max_positions);
        config["eos_token_id"] = json!(2);
    });
    edit_json(&target.join("tokenizer.json"), |tokenizer| {
        // The first three are control tokens.
        for id in tokenizer["model"]["vocab"]
            .as_object_mut()
            .unwrap()
            .values_mut()
        {
            let old = id.as_u64().unwrap();
            *id = json!(if old < 3 { old } else { 258 - old });
        }
    });
}

/// A new model directory without a chat template: the weights of `tiny-llama`, the tokenizer of
/// `tiny-chat`, and a context of `max_positions` tokens. The tokenizer knows only 256 tokens, so an
/// instruction takes more than a hundred tokens.
pub fn plain_model(max_positions: usize) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in [
        "tiny-llama/config.json",
        "tiny-llama/model.safetensors",
        "tiny-chat/tokenizer.json",
    ] {
        let source = fixture(name);
        fs::copy(&source, folder.path().join(source.file_name().unwrap())).unwrap();
    }
    edit_json(&folder.path().join("config.json"), |config| {
        config["max_position_embeddings"] = json!(max_positions);
    });
    folder
}

/// Changes a JSON file in place.
pub fn edit_json(path: &Path, change: impl FnOnce(&mut Value)) {
    let mut value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    change(&mut value);
    fs::write(path, value.to_string()).unwrap();
}
