//! The files of a model.

use std::{fs, path::Path, sync::OnceLock};

use polyphony_model::{
    ChatTemplate, Message, MessageRole, ModelFiles, Tokenizer, Weights, encode_continuation,
    encode_conversation,
};
use polyphony_test_support::{chat_model, fixture};

use crate::check;

/// A text that every tokenizer should accept.
const TEXT: &str = "the sky <|im_end|>\n\u{e9}\u{1f600} 12  3";

/// A complete model, of which the input replaces one file.
pub(super) fn make_model(folder: &Path) {
    chat_model(&folder.join("model"), 128);
}

/// A `config.json`.
pub(super) fn config(folder: &Path, bytes: &[u8]) {
    open_with_replaced(folder, "config.json", bytes);
}

/// A `tokenizer.json`, with which a text is encoded and decoded.
pub(super) fn tokenizer(folder: &Path, bytes: &[u8]) {
    let path = folder.join("tokenizer.json");
    fs::write(&path, bytes).unwrap();
    match Tokenizer::from_file(&path) {
        Ok(tokenizer) => use_tokenizer(&tokenizer),
        Err(error) => check::message_about(&error.to_string(), "tokenizer.json"),
    }
}

fn use_tokenizer(tokenizer: &Tokenizer) {
    for outcome in [
        tokenizer.encode(TEXT),
        tokenizer.encode_plain(TEXT),
        tokenizer.encode_more(TEXT),
    ] {
        match outcome {
            // Ids that cannot be decoded must give an error, not a panic.
            Ok(ids) => drop(
                tokenizer
                    .decode(&ids)
                    .map_err(|error| check::message(&error.to_string())),
            ),
            Err(error) => check::message(&error.to_string()),
        }
    }
}

/// Opens the directory of a model with one file replaced.
fn open_with_replaced(folder: &Path, name: &str, bytes: &[u8]) {
    let model = folder.join("model");
    fs::write(model.join(name), bytes).unwrap();
    open(&model, "model");
}

/// Opens a model and reads everything that is read before its weights are in memory.
fn open(path: &Path, name: &str) {
    match ModelFiles::open(path) {
        Ok(files) => {
            assert!(files.stop_tokens.is_sorted());
            if let Some(tokenizer) = &files.tokenizer {
                assert!(tokenizer.vocab_size() <= files.config.vocab_size);
                use_tokenizer(tokenizer);
            }
            if let Some(adapter) = &files.adapter {
                read_all(&adapter.weights, name);
            }
        }
        Err(error) => check::message_about(&error.to_string(), name),
    }
}

/// A file of weights.
pub(super) fn safetensors(folder: &Path, bytes: &[u8]) {
    let path = folder.join("model.safetensors");
    fs::write(&path, bytes).unwrap();
    match Weights::open(&path) {
        Ok(weights) => read_all(&weights, "model.safetensors"),
        Err(error) => check::message_about(&error.to_string(), "model.safetensors"),
    }
}

/// Reads every tensor, and checks that it gives as many values as its shape states, or an error.
fn read_all(weights: &Weights, file: &str) {
    for spec in weights.specs() {
        match weights.read(&spec.name, &spec.shape) {
            Ok(values) => assert_eq!(values.len(), spec.shape.iter().product::<usize>()),
            Err(error) => check::message_about(&error.to_string(), file),
        }
    }
}

/// A model whose weights are in two complete files.
pub(super) fn make_shards(folder: &Path) {
    make_model(folder);
    let model = folder.join("model");
    for name in [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ] {
        fs::copy(fixture("tiny-llama/model.safetensors"), model.join(name)).unwrap();
    }
    fs::remove_file(model.join("model.safetensors")).unwrap();
}

/// An index of several files of weights.
pub(super) fn safetensors_index(folder: &Path, bytes: &[u8]) {
    open_with_replaced(folder, "model.safetensors.index.json", bytes);
}

/// A GGUF file: weights, configuration, tokenizer and template in one.
pub(super) fn gguf(folder: &Path, bytes: &[u8]) {
    let path = folder.join("model.gguf");
    fs::write(&path, bytes).unwrap();
    open(&path, "model.gguf");
    if let Ok(files) = ModelFiles::open(&path) {
        read_all(&files.weights, "model.gguf");
    }
}

/// A model, and a directory of adapters on it with one small tensor.
pub(super) fn make_adapter(folder: &Path) {
    make_model(folder);
    fs::create_dir(folder.join("adapter")).unwrap();
    let header = br#"{"base_model.model.model.layers.0.mlp.up_proj.lora_A.weight":{"dtype":"F32","shape":[1,1],"data_offsets":[0,4]}}"#;
    let mut weights = (header.len() as u64).to_le_bytes().to_vec();
    weights.extend(header);
    weights.extend([0; 4]);
    fs::write(folder.join("adapter/adapter_model.safetensors"), weights).unwrap();
}

/// An `adapter_config.json` as PEFT writes it. The text `MODEL` in it stands for the path of a model.
pub(super) fn adapter_config(folder: &Path, bytes: &[u8]) {
    let adapter = folder.join("adapter");
    let model = folder.join("model");
    let text = String::from_utf8_lossy(bytes).replace("MODEL", model.to_str().unwrap());
    fs::write(adapter.join("adapter_config.json"), text).unwrap();
    match ModelFiles::open(&adapter) {
        Ok(files) => assert!(files.adapter.is_some()),
        // The error may be about the model that the file names.
        Err(error) => check::message(&error.to_string()),
    }
}

/// A chat template, and after a zero byte a `tokenizer_config.json`.
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
    for (count, prompt) in [(0, false), (2, true), (4, true), (4, false)] {
        if let Err(error) = template.render(&conversation[..count], prompt) {
            check::message_about(&error.to_string(), "chat_template.jinja");
        }
    }
}

/// A chat template, and after a zero byte the message of a user. The model crate renders the template several
/// times to find out which tokens of the prompt come from the template and which from the message.
pub(super) fn conversation(_: &Path, bytes: &[u8]) {
    static TOKENIZER: OnceLock<Tokenizer> = OnceLock::new();
    let tokenizer = TOKENIZER
        .get_or_init(|| Tokenizer::from_file(&fixture("tiny-chat/tokenizer.json")).unwrap());
    let text = String::from_utf8_lossy(bytes);
    let (source, message) = text
        .split_once('\0')
        .unwrap_or((&text, "the sky <|im_end|>"));
    let path = Path::new("chat_template.jinja");
    let Ok(template) = ChatTemplate::new(source, None, path) else {
        return;
    };
    let messages = [
        Message::new(MessageRole::System, "You are one of two."),
        Message::new(MessageRole::User, message),
    ];
    let outcomes = [
        encode_conversation(tokenizer, &template, &messages),
        encode_continuation(tokenizer, &template, None, message),
    ];
    for error in outcomes.into_iter().filter_map(Result::err) {
        check::message(&error.to_string());
    }
}
