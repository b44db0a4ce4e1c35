//! Small GGUF files, written byte by byte for the tests.

mod converter;

use std::path::{Path, PathBuf};

use serde_json::Value as Json;

use crate::error::ModelError;
use crate::files::ModelFiles;

/// A metadata value to write.
#[derive(Clone, Debug)]
pub(crate) enum Meta {
    U32(u32),
    U64(u64),
    I32(i32),
    F32(f32),
    Bool(bool),
    Text(String),
    Texts(Vec<String>),
    I32s(Vec<i32>),
    F32s(Vec<f32>),
    Bytes(Vec<u8>),
}

impl From<&str> for Meta {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<&Json> for Meta {
    fn from(json: &Json) -> Self {
        match json {
            Json::Bool(flag) => Self::Bool(*flag),
            Json::Number(number) => Self::U32(number.as_u64().unwrap() as u32),
            Json::String(text) => Self::Text(text.clone()),
            Json::Array(list) if list[0].is_string() => Self::Texts(
                list.iter()
                    .map(|text| text.as_str().unwrap().to_owned())
                    .collect(),
            ),
            Json::Array(list) => Self::I32s(
                list.iter()
                    .map(|number| number.as_i64().unwrap() as i32)
                    .collect(),
            ),
            json => panic!("{json} has no counterpart in metadata"),
        }
    }
}

/// A tensor to write, with dimensions as in the file: the fastest-varying first.
#[derive(Clone, Debug)]
pub(crate) struct TensorData {
    pub(crate) name: String,
    pub(crate) dimensions: Vec<u64>,
    pub(crate) kind: u32,
    pub(crate) data: Vec<u8>,
}

/// The contents of a file.
#[derive(Clone, Debug)]
pub(crate) struct Contents {
    pub(crate) version: u32,
    pub(crate) alignment: usize,
    pub(crate) metadata: Vec<(String, Meta)>,
    pub(crate) tensors: Vec<TensorData>,
}

pub(crate) const F32: u32 = 0;
pub(crate) const Q8_0: u32 = 8;

/// Sizes of the tiny model: 2 heads of size 16 share 1 key/value head.
pub(crate) const HIDDEN: usize = 32;
const FEED_FORWARD: usize = 64;
const VOCABULARY: usize = 256;

impl Contents {
    /// Contents without metadata and tensors.
    fn empty() -> Self {
        Self {
            version: 3,
            alignment: 32,
            metadata: Vec::new(),
            tensors: Vec::new(),
        }
    }

    /// A Llama model of one layer with the tokenizer and template of `fixtures/tiny-chat`.
    ///
    /// A tensor's value is its row plus a 64th of its column, which `f32` represents exactly.
    pub(crate) fn tiny_llama() -> Self {
        let mut contents = Self::empty();
        for (key, value) in model_metadata().into_iter().chain(tokenizer_metadata()) {
            contents.set(key, value);
        }
        for (name, rows, columns) in [
            ("blk.0.attn_k.weight", 16, HIDDEN),
            ("blk.0.attn_output.weight", HIDDEN, HIDDEN),
            ("blk.0.attn_q.weight", HIDDEN, HIDDEN),
            ("blk.0.attn_v.weight", 16, HIDDEN),
            ("blk.0.ffn_down.weight", HIDDEN, FEED_FORWARD),
            ("blk.0.ffn_gate.weight", FEED_FORWARD, HIDDEN),
            ("blk.0.ffn_up.weight", FEED_FORWARD, HIDDEN),
        ] {
            let value = |row: usize, column: usize| row as f32 + column as f32 / 64.0;
            let values = (0..rows).flat_map(|row| (0..columns).map(move |c| value(row, c)));
            contents.tensors.push(TensorData {
                name: name.to_owned(),
                dimensions: vec![columns as u64, rows as u64],
                kind: F32,
                data: values.flat_map(f32::to_le_bytes).collect(),
            });
        }
        for name in [
            "blk.0.attn_norm.weight",
            "blk.0.ffn_norm.weight",
            "output_norm.weight",
        ] {
            contents.tensors.push(TensorData {
                name: name.to_owned(),
                dimensions: vec![HIDDEN as u64],
                kind: F32,
                data: [1.0f32; HIDDEN]
                    .iter()
                    .flat_map(|value| value.to_le_bytes())
                    .collect(),
            });
        }
        contents.tensors.push(TensorData {
            name: "token_embd.weight".to_owned(),
            dimensions: vec![HIDDEN as u64, VOCABULARY as u64],
            kind: Q8_0,
            // Blocks of scale 0.5 whose integers are the row, as a signed byte.
            data: (0..=255u8)
                .flat_map(|row| [&[0x00, 0x38][..], &[row; 32]].concat())
                .collect(),
        });
        contents
    }

    /// Sets a metadata entry.
    pub(crate) fn set(&mut self, key: &str, value: Meta) {
        match self.metadata.iter_mut().find(|(name, _)| name == key) {
            Some(entry) => entry.1 = value,
            None => self.metadata.push((key.to_owned(), value)),
        }
    }

    /// Drops a metadata entry.
    pub(crate) fn unset(&mut self, key: &str) {
        self.metadata.retain(|(name, _)| name != key);
    }

    /// A tensor by its GGUF name.
    pub(crate) fn tensor(&mut self, name: &str) -> &mut TensorData {
        self.tensors
            .iter_mut()
            .find(|tensor| tensor.name == name)
            .unwrap()
    }

    /// Opens the file as a model.
    pub(crate) fn open(&self) -> Result<ModelFiles, ModelError> {
        open_bytes(&self.bytes())
    }

    /// The file's bytes.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut file = b"GGUF".to_vec();
        file.extend(self.version.to_le_bytes());
        file.extend((self.tensors.len() as u64).to_le_bytes());
        file.extend((self.metadata.len() as u64).to_le_bytes());
        for (key, value) in &self.metadata {
            write_text(&mut file, key);
            write_value(&mut file, value);
        }
        let mut offset = 0;
        for tensor in &self.tensors {
            write_text(&mut file, &tensor.name);
            file.extend((tensor.dimensions.len() as u32).to_le_bytes());
            file.extend(tensor.dimensions.iter().flat_map(|size| size.to_le_bytes()));
            file.extend(tensor.kind.to_le_bytes());
            file.extend((offset as u64).to_le_bytes());
            offset += tensor.data.len().next_multiple_of(self.alignment);
        }
        for tensor in &self.tensors {
            file.resize(file.len().next_multiple_of(self.alignment), 0);
            file.extend(&tensor.data);
        }
        file
    }
}

fn model_metadata() -> Vec<(&'static str, Meta)> {
    vec![
        ("general.architecture", "llama".into()),
        ("llama.block_count", Meta::U32(1)),
        ("llama.context_length", Meta::U32(128)),
        ("llama.embedding_length", Meta::U32(HIDDEN as u32)),
        ("llama.feed_forward_length", Meta::U32(FEED_FORWARD as u32)),
        ("llama.attention.head_count", Meta::U32(2)),
        ("llama.attention.head_count_kv", Meta::U32(1)),
        ("llama.rope.freq_base", Meta::F32(1e5)),
        ("llama.rope.dimension_count", Meta::U32(16)),
        ("llama.attention.layer_norm_rms_epsilon", Meta::F32(1e-5)),
    ]
}

fn tokenizer_metadata() -> Vec<(&'static str, Meta)> {
    let tokenizer: Json = serde_json::from_str(&tiny_chat("tokenizer.json")).unwrap();
    let vocabulary = tokenizer["model"]["vocab"].as_object().unwrap();
    let mut tokens: Vec<(u64, String)> = vocabulary
        .iter()
        .map(|(token, id)| (id.as_u64().unwrap(), token.clone()))
        .collect();
    tokens.sort();
    let merges = tokenizer["model"]["merges"].as_array().unwrap();
    let merge = |pair: &Json| {
        format!(
            "{} {}",
            pair[0].as_str().unwrap(),
            pair[1].as_str().unwrap()
        )
    };
    vec![
        ("tokenizer.ggml.model", "gpt2".into()),
        ("tokenizer.ggml.pre", "smollm".into()),
        (
            "tokenizer.ggml.tokens",
            Meta::Texts(tokens.into_iter().map(|(_, token)| token).collect()),
        ),
        (
            "tokenizer.ggml.token_type",
            Meta::I32s((0..256).map(|id| if id < 3 { 3 } else { 1 }).collect()),
        ),
        (
            "tokenizer.ggml.merges",
            Meta::Texts(merges.iter().map(merge).collect()),
        ),
        ("tokenizer.ggml.bos_token_id", Meta::U32(1)),
        ("tokenizer.ggml.eos_token_id", Meta::U32(2)),
        ("tokenizer.ggml.eot_token_id", Meta::U32(0)),
        (
            "tokenizer.chat_template",
            Meta::Text(tiny_chat("chat_template.jinja")),
        ),
    ]
}

/// Opens a file of these bytes as a model.
pub(crate) fn open_bytes(bytes: &[u8]) -> Result<ModelFiles, ModelError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    std::fs::write(&path, bytes).unwrap();
    ModelFiles::open(&path)
}

/// A file of `fixtures/tiny-chat`.
pub(crate) fn tiny_chat(name: &str) -> String {
    std::fs::read_to_string(fixtures().join("tiny-chat").join(name)).unwrap()
}

/// The crate's fixtures.
pub(crate) fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}

fn write_text(file: &mut Vec<u8>, text: &str) {
    file.extend((text.len() as u64).to_le_bytes());
    file.extend(text.as_bytes());
}

fn write_value(file: &mut Vec<u8>, value: &Meta) {
    let mut start = |kind: u32| file.extend(kind.to_le_bytes());
    match value {
        Meta::U32(number) => {
            start(4);
            file.extend(number.to_le_bytes());
        }
        Meta::U64(number) => {
            start(10);
            file.extend(number.to_le_bytes());
        }
        Meta::I32(number) => {
            start(5);
            file.extend(number.to_le_bytes());
        }
        Meta::F32(number) => {
            start(6);
            file.extend(number.to_le_bytes());
        }
        Meta::Bool(flag) => {
            start(7);
            file.push(u8::from(*flag));
        }
        Meta::Text(text) => {
            start(8);
            write_text(file, text);
        }
        Meta::Texts(texts) => {
            start(9);
            file.extend(8u32.to_le_bytes());
            file.extend((texts.len() as u64).to_le_bytes());
            texts.iter().for_each(|text| write_text(file, text));
        }
        Meta::I32s(numbers) => {
            start(9);
            file.extend(5u32.to_le_bytes());
            file.extend((numbers.len() as u64).to_le_bytes());
            file.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
        }
        Meta::F32s(numbers) => {
            start(9);
            file.extend(6u32.to_le_bytes());
            file.extend((numbers.len() as u64).to_le_bytes());
            file.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
        }
        Meta::Bytes(bytes) => file.extend(bytes),
    }
}
