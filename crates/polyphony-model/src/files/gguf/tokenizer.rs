//! Rebuilds a `tokenizer.json` from the vocabulary in a GGUF file's metadata.
//!
//! GGUF stores tokens, token types and merges, but only the *name* of the pre-tokenizer. The rest of
//! the original `tokenizer.json` follows from that name.

use serde_json::{Map, Value, json};

use super::reader::Gguf;
use crate::error::ModelError;

/// How the tokens of a vocabulary may be used (`tokenizer.ggml.token_type`).
#[derive(Clone, Copy, PartialEq, Eq)]
enum TokenKind {
    /// An ordinary token.
    Normal,
    /// A control token such as `<|im_end|>`: recognized as a whole, left out of decoded text.
    Control,
    /// An added token: recognized as a whole, and part of decoded text.
    UserDefined,
    /// A placeholder that no text is encoded to.
    Unused,
}

/// How a text is split into words before merging (`tokenizer.ggml.pre`), and the settings that go with
/// it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum PreTokenizer {
    Gpt2,
    /// GPT-2's, but every digit is a word.
    SmolLm,
    /// That of Qwen2 and its successors.
    Qwen2,
    /// That of Llama 3: a word in the vocabulary becomes one token, whatever the merges, and every text gets
    /// a beginning token.
    Llama3,
}

/// The tokenizer as Hugging Face JSON; `None` if the file has no tokenizer.
///
/// # Errors
/// If the tokenizer's type cannot be rebuilt, or its parts contradict each other.
pub(crate) fn tokenizer_json(gguf: &Gguf<'_>) -> Result<Option<Value>, ModelError> {
    match gguf.text("tokenizer.ggml.model")? {
        Some("gpt2") => {}
        None | Some("none") => return Ok(None),
        Some(model) => return Err(gguf.unsupported("tokenizer model", model, "gpt2")),
    }
    let pre_tokenizer = PreTokenizer::of(gguf)?;
    let tokens = gguf
        .texts("tokenizer.ggml.tokens")?
        .ok_or_else(|| gguf.missing("tokenizer.ggml.tokens", "the vocabulary, a list of texts"))?;
    let kinds = token_kinds(gguf, tokens.len())?;

    let mut vocabulary = Map::new();
    let mut added = Vec::new();
    for (id, (token, kind)) in tokens.iter().zip(kinds).enumerate() {
        if kind == TokenKind::Unused {
            continue;
        }
        if vocabulary.insert((*token).to_owned(), json!(id)).is_some() {
            let reason = format!("token {token:?} occurs twice in `tokenizer.ggml.tokens`");
            return Err(ModelError::Damaged {
                path: gguf.path().to_owned(),
                reason,
            });
        }
        if kind != TokenKind::Normal {
            added.push(json!({
                "id": id,
                "content": token,
                "single_word": false,
                "lstrip": false,
                "rstrip": false,
                "normalized": false,
                "special": kind == TokenKind::Control,
            }));
        }
    }
    Ok(Some(json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": pre_tokenizer.normalizer(),
        "pre_tokenizer": pre_tokenizer.stages(),
        "post_processor": post_processor(gguf, pre_tokenizer, &tokens)?,
        "decoder": byte_level(ByteLevel::Decoder),
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": null,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": false,
            "byte_fallback": false,
            "ignore_merges": pre_tokenizer == PreTokenizer::Llama3,
            "vocab": vocabulary,
            "merges": merges(gguf)?,
        },
    })))
}

fn token_kinds(gguf: &Gguf<'_>, tokens: usize) -> Result<Vec<TokenKind>, ModelError> {
    const KEY: &str = "tokenizer.ggml.token_type";
    let Some(numbers) = gguf.integers(KEY)? else {
        return Ok(vec![TokenKind::Normal; tokens]);
    };
    if numbers.len() != tokens {
        let given = format!("a list of {} values", numbers.len());
        return Err(gguf.invalid(KEY, given, format!("one value for each of {tokens} tokens")));
    }
    let kind = |number: i128| match number {
        1 | 2 | 6 => Ok(TokenKind::Normal),
        3 => Ok(TokenKind::Control),
        4 => Ok(TokenKind::UserDefined),
        5 => Ok(TokenKind::Unused),
        _ => Err(gguf.invalid(KEY, number, "from 1 to 6")),
    };
    numbers.into_iter().map(kind).collect()
}

fn merges<'a>(gguf: &Gguf<'a>) -> Result<Vec<[&'a str; 2]>, ModelError> {
    const KEY: &str = "tokenizer.ggml.merges";
    let merges = gguf
        .texts(KEY)?
        .ok_or_else(|| gguf.missing(KEY, "the pairs of tokens to merge, a list of texts"))?;
    let pair = |merge: &'a str| match merge.split_once(' ') {
        Some((left, right)) => Ok([left, right]),
        None => Err(gguf.invalid(KEY, format!("{merge:?}"), "two tokens with a space between")),
    };
    merges.into_iter().map(pair).collect()
}

impl PreTokenizer {
    /// The pre-tokenizer that a file names.
    ///
    /// Converters wrote `default` before pre-tokenizers had names. As in transformers' GGUF import, it
    /// is read as GPT-2's.
    fn of(gguf: &Gguf<'_>) -> Result<Self, ModelError> {
        match gguf.text("tokenizer.ggml.pre")? {
            None | Some("gpt-2" | "default") => Ok(Self::Gpt2),
            Some("smollm") => Ok(Self::SmolLm),
            Some("qwen2") => Ok(Self::Qwen2),
            Some("llama-bpe") => Ok(Self::Llama3),
            Some(name) => {
                let supported = "smollm, qwen2, llama-bpe, gpt-2 and default";
                Err(gguf.unsupported("pre-tokenizer", name, supported))
            }
        }
    }

    /// The normalizer, which is applied before a text is split.
    fn normalizer(self) -> Value {
        match self {
            Self::Qwen2 => json!({"type": "NFC"}),
            Self::Gpt2 | Self::SmolLm | Self::Llama3 => Value::Null,
        }
    }

    /// The pre-tokenizer, which splits a text into words and maps the words' bytes to characters.
    fn stages(self) -> Value {
        let first = match self {
            Self::Gpt2 => return byte_level(ByteLevel::Words),
            Self::SmolLm => {
                let digits = json!({"type": "Digits", "individual_digits": true});
                return sequence(digits, byte_level(ByteLevel::Words));
            }
            Self::Qwen2 => split(r"\p{N}"),
            Self::Llama3 => split(r"\p{N}{1,3}"),
        };
        sequence(first, byte_level(ByteLevel::Alphabet))
    }
}

fn sequence(first: Value, second: Value) -> Value {
    json!({"type": "Sequence", "pretokenizers": [first, second]})
}

/// Splits a text by the regular expression of Qwen and Llama 3, which differ only in `number`. The
/// alternatives are tried in this order, and every character belongs to a word.
fn split(number: &str) -> Value {
    let words = [
        // English endings.
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)",
        // Letters, with one character before them that is neither a digit nor a line end.
        r"[^\r\n\p{L}\p{N}]?\p{L}+",
        number,
        // Other visible characters, with a space before and line ends behind.
        r" ?[^\s\p{L}\p{N}]+[\r\n]*",
        // White space: up to a line end; without the last space, which belongs to a word; any.
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    ];
    json!({
        "type": "Split",
        "pattern": {"Regex": words.join("|")},
        "behavior": "Isolated",
        "invert": false,
    })
}

/// The use of a stage that maps between text and GPT-2's byte alphabet.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ByteLevel {
    /// Splits by GPT-2's regular expression, and then maps to the alphabet.
    Words,
    /// Maps words that are already split to the alphabet.
    Alphabet,
    /// Maps back to text.
    Decoder,
}

fn byte_level(purpose: ByteLevel) -> Value {
    json!({
        "type": "ByteLevel",
        "add_prefix_space": purpose == ByteLevel::Decoder,
        "trim_offsets": true,
        "use_regex": purpose != ByteLevel::Alphabet,
    })
}

/// The post-processor, which adds the beginning-of-sequence token if the key `add_bos_token` is true. The
/// converters of Llama 3's first year did not write that key. Without it, a Llama 3 tokenizer adds the token,
/// as in llama.cpp.
fn post_processor(
    gguf: &Gguf<'_>,
    pre_tokenizer: PreTokenizer,
    tokens: &[&str],
) -> Result<Value, ModelError> {
    let add_bos = gguf.flag("tokenizer.ggml.add_bos_token")?;
    if !add_bos.unwrap_or(pre_tokenizer == PreTokenizer::Llama3) {
        return Ok(Value::Null);
    }
    const KEY: &str = "tokenizer.ggml.bos_token_id";
    let id = gguf
        .whole(KEY)?
        .ok_or_else(|| gguf.missing(KEY, "the id of the first token"))?;
    let token = usize::try_from(id)
        .ok()
        .and_then(|id| tokens.get(id))
        .ok_or_else(|| {
            gguf.invalid(
                KEY,
                id,
                format!("below the vocabulary's size, {}", tokens.len()),
            )
        })?;
    let begin = json!({"SpecialToken": {"id": token, "type_id": 0}});
    let text = |id: &str, type_id: u8| json!({"Sequence": {"id": id, "type_id": type_id}});
    Ok(json!({
        "type": "TemplateProcessing",
        "single": [begin, text("A", 0)],
        "pair": [begin, text("A", 0), text("B", 1)],
        "special_tokens": {*token: {"id": token, "ids": [id], "tokens": [token]}},
    }))
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::super::fixture::{Contents, Meta, fixtures};
    use super::*;
    use crate::files::Tokenizer;

    /// A file of `fixtures/gguf-tokenizers`.
    #[derive(Deserialize)]
    struct Original {
        metadata: Map<String, Value>,
        texts: Vec<Expected>,
    }

    #[derive(Deserialize)]
    struct Expected {
        text: String,
        ids: Vec<u32>,
        decoded: String,
        plain_ids: Vec<u32>,
    }

    fn original(name: &str) -> Original {
        let path = fixtures()
            .join("gguf-tokenizers")
            .join(format!("{name}.json"));
        serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
    }

    fn rebuilt(metadata: &Map<String, Value>) -> Tokenizer {
        let mut contents = Contents::tiny_llama();
        contents
            .metadata
            .retain(|(key, _)| !key.starts_with("tokenizer."));
        for (key, value) in metadata {
            contents.set(&format!("tokenizer.ggml.{key}"), Meta::from(value));
        }
        contents.open().unwrap().tokenizer.unwrap()
    }

    #[test]
    fn rebuilt_tokenizers_are_the_originals() {
        for name in ["qwen2", "llama-bpe"] {
            let original = original(name);
            let tokenizer = rebuilt(&original.metadata);
            assert!(!original.texts.is_empty());
            for row in original.texts {
                let text = &row.text;
                assert_eq!(tokenizer.encode(text).unwrap(), row.ids, "{name}: {text:?}");
                let plain_ids = tokenizer.encode_plain(text).unwrap();
                assert_eq!(plain_ids, row.plain_ids, "{name}: {text:?}");
                let decoded = tokenizer.decode(&row.ids).unwrap();
                assert_eq!(decoded, row.decoded, "{name}: {text:?}");
            }
        }
    }

    #[test]
    fn llama_3_begins_a_text_unless_the_file_forbids_it() {
        let mut metadata = original("llama-bpe").metadata;
        let begin = metadata["bos_token_id"].as_u64().unwrap() as u32;
        for (add_bos, begins) in [(None, true), (Some(true), true), (Some(false), false)] {
            metadata.remove("add_bos_token");
            metadata.extend(add_bos.map(|flag| ("add_bos_token".to_owned(), json!(flag))));
            let ids = rebuilt(&metadata).encode_plain("the sky").unwrap();
            assert_eq!(ids.first() == Some(&begin), begins, "{add_bos:?}");
        }
    }
}
