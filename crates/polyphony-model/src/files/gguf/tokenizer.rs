//! A `tokenizer.json` from the vocabulary in a GGUF file's metadata.
//!
//! GGUF keeps tokens, token types and merges, and the *name* of the pre-tokenizer; the rest of the
//! original `tokenizer.json` is rebuilt from that name.

use serde_json::{Map, Value, json};

use super::reader::Gguf;
use crate::error::ModelError;

/// How the tokens of a vocabulary may be used (`tokenizer.ggml.token_type`).
#[derive(Clone, Copy, PartialEq, Eq)]
enum TokenKind {
    /// An ordinary token.
    Normal,
    /// A control token such as `<|im_end|>`: recognized whole, left out of decoded text.
    Control,
    /// A token that was added for its text: recognized whole, kept in decoded text.
    UserDefined,
    /// A filler that no text produces.
    Unused,
}

/// The tokenizer as Hugging Face JSON, or nothing if the file has none.
///
/// # Errors
/// If the tokenizer is of a kind that cannot be rebuilt, or its parts contradict each other.
pub(crate) fn tokenizer_json(gguf: &Gguf<'_>) -> Result<Option<Value>, ModelError> {
    match gguf.text("tokenizer.ggml.model")? {
        Some("gpt2") => {}
        None | Some("none") => return Ok(None),
        Some(other) => return Err(gguf.unsupported("tokenizer model", other, "gpt2")),
    }
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
        "normalizer": null,
        "pre_tokenizer": pre_tokenizer(gguf)?,
        "post_processor": post_processor(gguf, &tokens)?,
        "decoder": byte_level(true),
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": null,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": false,
            "byte_fallback": false,
            "ignore_merges": false,
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

/// How a text is cut into words before merging.
///
/// `default` is what converters wrote before pre-tokenizers had names; like transformers' own GGUF
/// import it is read as GPT-2's.
fn pre_tokenizer(gguf: &Gguf<'_>) -> Result<Value, ModelError> {
    match gguf.text("tokenizer.ggml.pre")? {
        None | Some("gpt-2" | "default") => Ok(byte_level(false)),
        Some("smollm") => Ok(json!({
            "type": "Sequence",
            "pretokenizers": [{"type": "Digits", "individual_digits": true}, byte_level(false)],
        })),
        Some(other) => Err(gguf.unsupported("pre-tokenizer", other, "smollm, gpt-2 and default")),
    }
}

/// The stage between texts and GPT-2's byte alphabet.
fn byte_level(add_prefix_space: bool) -> Value {
    json!({
        "type": "ByteLevel",
        "add_prefix_space": add_prefix_space,
        "trim_offsets": true,
        "use_regex": true,
    })
}

/// Puts the beginning-of-sequence token in front where the file says so.
fn post_processor(gguf: &Gguf<'_>, tokens: &[&str]) -> Result<Value, ModelError> {
    if gguf.flag("tokenizer.ggml.add_bos_token")? != Some(true) {
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
