//! A whole model for tests: the random weights of one fixture, the tokenizer of another.

use std::{fs, path::Path};

use serde_json::Value;

/// A new model directory. The model's context is widened from 128 tokens to 2048, since its
/// tokenizer of 256 tokens spends more than 128 on any instruction.
pub(crate) fn directory() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../polyphony-model/fixtures");
    for from in ["tiny-llama/model.safetensors", "tiny-chat/tokenizer.json"] {
        let from = fixtures.join(from);
        fs::copy(&from, folder.path().join(from.file_name().unwrap())).unwrap();
    }
    let config = fs::read_to_string(fixtures.join("tiny-llama/config.json")).unwrap();
    let mut config: Value = serde_json::from_str(&config).unwrap();
    config["max_position_embeddings"] = 2048.into();
    fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    folder
}
