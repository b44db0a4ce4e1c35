//! Tiny models out of the fixtures of `polyphony-model`.

use std::{
    fs,
    path::{Path, PathBuf},
};

use burn::tensor::{Device, Tensor};
use polyphony_model::{LanguageModel, ModelFiles};
use serde_json::{Value, json};

/// A file or folder among the fixtures of `polyphony-model`.
pub(crate) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../crates/polyphony-model/fixtures")
        .join(name)
}

/// The model at a path, on the CPU.
pub(crate) fn load(path: &Path) -> LanguageModel {
    LanguageModel::load(&ModelFiles::open(path).unwrap(), &Device::flex()).unwrap()
}

/// Makes the new directory `target` a model with tokenizer and chat template: `tiny-llama` with the
/// language of `tiny-chat`, for contexts of `max_positions` tokens.
///
/// Tokens of control characters, which no text has, are made words: so what the model says at
/// random has enough words to earn some reward.
pub(crate) fn chat_model(target: &Path, max_positions: usize) {
    fs::create_dir_all(target).unwrap();
    for (from, name) in [
        ("tiny-llama", "config.json"),
        ("tiny-llama", "model.safetensors"),
        ("tiny-chat", "tokenizer.json"),
        ("tiny-chat", "tokenizer_config.json"),
        ("tiny-chat", "chat_template.jinja"),
    ] {
        fs::copy(fixture(from).join(name), target.join(name)).unwrap();
    }
    edit(&target.join("config.json"), |config| {
        config["max_position_embeddings"] = json!(max_positions);
    });
    edit(&target.join("tokenizer.json"), |tokenizer| {
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

/// Changes a JSON file.
pub(crate) fn edit(path: &Path, change: impl FnOnce(&mut Value)) {
    let mut value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    change(&mut value);
    fs::write(path, value.to_string()).unwrap();
}

/// A tensor's values.
pub(crate) fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_into_vec().unwrap()
}

/// The bits of all weights, one after the other.
pub(crate) fn weight_bits(model: &LanguageModel) -> Vec<u32> {
    let weights = model.named_weights().into_iter();
    weights
        .flat_map(|(_, weight)| values(weight))
        .map(f32::to_bits)
        .collect()
}
