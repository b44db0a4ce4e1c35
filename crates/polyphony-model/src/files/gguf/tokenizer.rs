//! Rebuilds a `tokenizer.json` from the vocabulary in a GGUF file's metadata.
//!
//! GGUF stores tokens, token types and merges, but only the *name* of the pre-tokenizer. The rest of
//! the original `tokenizer.json` follows from that name. A SentencePiece vocabulary has scores instead of merges.

use serde_json::{Map, Value, json};

use super::{reader::Gguf, sentence_piece};
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
    let pre_tokenizer = match gguf.text("tokenizer.ggml.model")? {
        Some("gpt2") => Some(PreTokenizer::of(gguf)?),
        Some("llama") => None,
        None | Some("none") => return Ok(None),
        Some(model) => return Err(gguf.unsupported("tokenizer model", model, "gpt2, llama")),
    };
    let tokens = gguf
        .texts("tokenizer.ggml.tokens")?
        .ok_or_else(|| gguf.missing("tokenizer.ggml.tokens", "the vocabulary, a list of texts"))?;
    let kinds = token_kinds(gguf, tokens.len())?;

    let mut vocabulary = Map::new();
    let mut added = Vec::new();
    for (id, (token, kind)) in tokens.iter().zip(&kinds).enumerate() {
        if *kind == TokenKind::Unused {
            continue;
        }
        if vocabulary.insert((*token).to_owned(), json!(id)).is_some() {
            let reason = format!("token {token:?} occurs twice in `tokenizer.ggml.tokens`");
            return Err(ModelError::Damaged {
                path: gguf.path().to_owned(),
                reason,
            });
        }
        if *kind != TokenKind::Normal {
            added.push(json!({
                "id": id,
                "content": token,
                "single_word": false,
                "lstrip": false,
                "rstrip": false,
                // Runs of spaces are found in the normalized text, where spaces have become this character.
                "normalized": pre_tokenizer.is_none() && token.contains(SPACE),
                "special": *kind == TokenKind::Control,
            }));
        }
    }
    let mut json = match pre_tokenizer {
        Some(pre_tokenizer) => json!({
            "normalizer": pre_tokenizer.normalizer(),
            "pre_tokenizer": pre_tokenizer.stages(),
            "decoder": byte_level(ByteLevel::Decoder),
            "model": {
                "unk_token": null,
                "fuse_unk": false,
                "byte_fallback": false,
                "ignore_merges": pre_tokenizer == PreTokenizer::Llama3,
                "merges": merges(gguf)?,
            },
        }),
        None => {
            let is_merged = |id: usize| kinds[id] == TokenKind::Normal;
            sentence_piece(gguf, &tokens, is_merged)?
        }
    };
    // The converters of Llama 3's first year did not write whether a beginning token is added. Without the key,
    // Llama 3 and SentencePiece tokenizers add it, as in llama.cpp.
    let adds_bos = pre_tokenizer.is_none_or(|known| known == PreTokenizer::Llama3);
    json["version"] = json!("1.0");
    json["truncation"] = Value::Null;
    json["padding"] = Value::Null;
    json["added_tokens"] = json!(added);
    json["post_processor"] = post_processor(gguf, adds_bos, &tokens)?;
    let model = &mut json["model"];
    model["type"] = json!("BPE");
    model["dropout"] = Value::Null;
    model["continuing_subword_prefix"] = Value::Null;
    model["end_of_word_suffix"] = Value::Null;
    model["vocab"] = Value::Object(vocabulary);
    Ok(Some(json))
}

/// What stands for a space in a SentencePiece vocabulary.
const SPACE: char = '\u{2581}';

/// The stages and the model of a SentencePiece tokenizer.
fn sentence_piece(
    gguf: &Gguf<'_>,
    tokens: &[&str],
    is_merged: impl Fn(usize) -> bool,
) -> Result<Value, ModelError> {
    const PREFIX: &str = "tokenizer.ggml.add_space_prefix";
    let adds_prefix = gguf.flag(PREFIX)?;
    if adds_prefix != Some(false) {
        let given = adds_prefix.map_or("absent", |_| "true");
        return Err(gguf.invalid(PREFIX, given, "false (all that is supported)"));
    }
    const UNKNOWN: &str = "tokenizer.ggml.unknown_token_id";
    let unknown = gguf
        .whole(UNKNOWN)?
        .ok_or_else(|| gguf.missing(UNKNOWN, "the id of the token for unknown characters"))?;
    Ok(json!({
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
        "pre_tokenizer": null,
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
            {"type": "ByteFallback"},
            {"type": "Fuse"},
        ]},
        "model": {
            "unk_token": token_of(gguf, UNKNOWN, unknown, tokens)?,
            "fuse_unk": true,
            "byte_fallback": true,
            "ignore_merges": false,
            "merges": sentence_piece::merges(gguf, tokens, is_merged)?,
        },
    }))
}

/// The token with an id that a key gives.
fn token_of<'a>(
    gguf: &Gguf<'_>,
    key: &str,
    id: u64,
    tokens: &[&'a str],
) -> Result<&'a str, ModelError> {
    let token = usize::try_from(id).ok().and_then(|id| tokens.get(id));
    token.copied().ok_or_else(|| {
        let allowed = format!("below the vocabulary's size, {}", tokens.len());
        gguf.invalid(key, id, allowed)
    })
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

/// The post-processor, which adds the beginning-of-sequence token if the key `add_bos_token` says so, or by
/// default.
fn post_processor(
    gguf: &Gguf<'_>,
    adds_bos_by_default: bool,
    tokens: &[&str],
) -> Result<Value, ModelError> {
    let adds_bos = gguf.flag("tokenizer.ggml.add_bos_token")?;
    if !adds_bos.unwrap_or(adds_bos_by_default) {
        return Ok(Value::Null);
    }
    const KEY: &str = "tokenizer.ggml.bos_token_id";
    let id = gguf
        .whole(KEY)?
        .ok_or_else(|| gguf.missing(KEY, "the id of the first token"))?;
    let token = token_of(gguf, KEY, id, tokens)?;
    let begin = json!({"SpecialToken": {"id": token, "type_id": 0}});
    let text = |id: &str, type_id: u8| json!({"Sequence": {"id": id, "type_id": type_id}});
    Ok(json!({
        "type": "TemplateProcessing",
        "single": [begin, text("A", 0)],
        "pair": [begin, text("A", 0), text("B", 1)],
        "special_tokens": {token: {"id": token, "ids": [id], "tokens": [token]}},
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

    /// A vocabulary in which "ab" is made before " a", with runs of spaces and bytes.
    fn sentence_piece_metadata() -> Vec<(&'static str, Meta)> {
        let tokens = [
            ("<unk>", 3, 0.0),
            ("<bos>", 3, 0.0),
            ("\u{2581}\u{2581}", 4, -1000.0),
            ("<0xC3>", 6, 0.0),
            ("<0xA9>", 6, 0.0),
            ("ab", 1, -0.0),
            ("\u{2581}a", 1, -1.0),
            ("abb", 1, -2.0),
            ("\u{2581}", 1, -3.0),
            ("a", 1, -4.0),
            ("b", 1, -5.0),
        ];
        vec![
            ("model", "llama".into()),
            (
                "tokens",
                Meta::Texts(tokens.map(|(token, ..)| token.to_owned()).into()),
            ),
            (
                "token_type",
                Meta::I32s(tokens.map(|(_, kind, _)| kind).into()),
            ),
            ("scores", Meta::F32s(tokens.map(|(.., score)| score).into())),
            ("unknown_token_id", Meta::U32(0)),
            ("bos_token_id", Meta::U32(1)),
            ("add_space_prefix", Meta::Bool(false)),
        ]
    }

    fn with_tokenizer(metadata: &[(&'static str, Meta)]) -> Result<Tokenizer, ModelError> {
        let mut contents = Contents::tiny_llama();
        contents
            .metadata
            .retain(|(key, _)| !key.starts_with("tokenizer."));
        for (key, value) in metadata {
            contents.set(&format!("tokenizer.ggml.{key}"), value.clone());
        }
        contents.open().map(|files| files.tokenizer.unwrap())
    }

    #[test]
    fn scores_of_a_sentence_piece_vocabulary_become_merges() {
        let tokenizer = with_tokenizer(&sentence_piece_metadata()).unwrap();
        for (text, ids) in [
            // The space is not merged with the first letter, since "ab" has a higher score.
            (" ab", vec![1, 8, 5]),
            (" a", vec![1, 6]),
            ("abb a", vec![1, 7, 6]),
            // A run of spaces is one token.
            ("a  b", vec![1, 9, 2, 10]),
            // A character without a token is written as its bytes.
            ("a\u{e9}", vec![1, 9, 3, 4]),
        ] {
            let encoded = tokenizer.encode_plain(text).unwrap();
            assert_eq!(encoded, ids, "{text:?}");
            assert_eq!(tokenizer.decode(&encoded[1..]).unwrap(), text);
        }
    }

    #[test]
    fn sentence_piece_vocabularies_that_cannot_be_rebuilt_are_explained() {
        let refused = |key: &str, value: Option<Meta>| {
            let mut metadata = sentence_piece_metadata();
            metadata.retain(|(name, _)| *name != key);
            metadata.extend(
                value.map(|value| (Box::leak(key.to_owned().into_boxed_str()) as &_, value)),
            );
            with_tokenizer(&metadata).unwrap_err().to_string()
        };
        for (key, value, expected) in [
            ("scores", None, "no key `tokenizer.ggml.scores`"),
            (
                "scores",
                Some(Meta::F32s(vec![0.0])),
                "one value for each of 11 tokens",
            ),
            ("unknown_token_id", None, "the token for unknown characters"),
            (
                "unknown_token_id",
                Some(Meta::U32(11)),
                "below the vocabulary's size, 11",
            ),
            ("add_space_prefix", None, "must be false"),
            ("add_space_prefix", Some(Meta::Bool(true)), "must be false"),
        ] {
            let message = refused(key, value);
            assert!(message.contains(expected), "{message:?} lacks {expected:?}");
        }
    }
}
