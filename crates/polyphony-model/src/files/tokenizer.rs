//! Text to token ids and back.
//!
//! Control tokens such as `<|im_end|>` need care. In text written by a chat template they are control
//! tokens. In text from data they must stay ordinary characters, or a data set could end a turn or
//! pose as the system. Hence there are two ways to encode; [`super::encode_conversation`] combines
//! them.
//!
//! A `tokenizer.json` may come from an untrusted source. It is checked before Hugging Face's tokenizer
//! library reads it (`checks`). If the library panics nevertheless, the panic becomes an error
//! ([`catch_panic`]).

mod charsmap;
mod checks;
mod control;
#[cfg(test)]
mod hostile;
mod pattern;
mod vocabulary;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tokenizers::AddedToken;

use self::control::ControlToken;
pub(crate) use self::control::ControlTokens;
use super::contain::catch_panic;
use super::read::optional_text;
use crate::error::{ModelError, truncated};

/// A model's tokenizer.
#[derive(Debug)]
pub struct Tokenizer {
    path: PathBuf,
    inner: tokenizers::Tokenizer,
    /// Tokenizers that encode control tokens as ordinary characters: all special tokens, and the other tokens
    /// whose ids are the key. Each tokenizer is built on first use.
    literal: Mutex<HashMap<Vec<u32>, Arc<tokenizers::Tokenizer>>>,
    /// The last template whose control tokens were requested, with these tokens.
    control: Mutex<Option<(String, Arc<ControlTokens>)>>,
}

impl Tokenizer {
    /// Reads a `tokenizer.json`.
    ///
    /// # Errors
    /// If the file is missing, unreadable or not a tokenizer.
    pub fn from_file(path: &Path) -> Result<Self, ModelError> {
        let json = optional_json(path)?.ok_or_else(|| ModelError::Missing {
            path: path.to_owned(),
            expected: "a tokenizer.json".to_owned(),
        })?;
        Self::from_json(&json, path)
    }

    /// Builds the tokenizer that a `tokenizer.json` text describes. `path` is the text's origin, for
    /// error messages.
    ///
    /// Truncation and padding are switched off even if the text enables them, so that no prompt is
    /// silently truncated.
    ///
    /// # Errors
    /// If the text does not describe a tokenizer, or if the tokenizer could take much more time or
    /// memory than those of known models.
    pub fn from_json(json: &str, path: &Path) -> Result<Self, ModelError> {
        let checked = checks::check(json).map_err(|reason| failed(path, &reason))?;
        let inner = without_panics(|| {
            let mut inner: tokenizers::Tokenizer = json.parse()?;
            inner.with_truncation(None)?;
            inner.with_padding(None);
            Ok(inner)
        });
        let inner = inner.map_err(|error| failed(path, &error))?;
        let is_token =
            |id: &u64| u32::try_from(*id).is_ok_and(|id| inner.id_to_token(id).is_some());
        if let Some(id) = checked.added_ids.iter().find(|id| !is_token(id)) {
            let reason = format!("post_processor adds the id {id}, which is not a token's");
            return Err(failed(path, &reason));
        }
        Ok(Self {
            path: path.to_owned(),
            inner,
            literal: Mutex::default(),
            control: Mutex::default(),
        })
    }

    /// The ids of a text in which control tokens are recognized, such as the output of a chat template.
    /// No tokens are added before or after it, since templates write the beginning themselves.
    ///
    /// # Errors
    /// If the tokenizer has no tokens for the text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, ModelError> {
        self.encode_with(&self.inner, text, false)
    }

    /// The ids of a text that is a whole prompt for a model without chat template. Control tokens in
    /// it are ordinary characters. The tokens that the tokenizer adds around a text, such as a
    /// beginning-of-sequence token, are included.
    ///
    /// # Errors
    /// If the tokenizer has no tokens for the text.
    pub fn encode_plain(&self, text: &str) -> Result<Vec<u32>, ModelError> {
        self.encode_with(&*self.literal(&ControlTokens::default())?, text, true)
    }

    /// The ids of text that continues a prompt from [`Tokenizer::encode_plain`], without added tokens.
    ///
    /// # Errors
    /// If the tokenizer has no tokens for the text.
    pub fn encode_more(&self, text: &str) -> Result<Vec<u32>, ModelError> {
        self.encode_literal(text, &ControlTokens::default())
    }

    /// The ids of a piece of text in which special tokens and these control tokens are ordinary
    /// characters, with nothing added.
    ///
    /// # Errors
    /// If the tokenizer has no tokens for the text.
    pub(crate) fn encode_literal(
        &self,
        text: &str,
        control: &ControlTokens,
    ) -> Result<Vec<u32>, ModelError> {
        self.encode_with(&*self.literal(control)?, text, false)
    }

    /// The text of a sequence of ids, without control tokens. Ids that are not tokens are left out.
    ///
    /// # Errors
    /// If the tokenizer cannot join the tokens.
    pub fn decode(&self, ids: &[u32]) -> Result<String, ModelError> {
        without_panics(|| self.inner.decode(ids, true)).map_err(|error| failed(&self.path, &error))
    }

    /// The number of tokens, control tokens included.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// The tokenizer as the text of a `tokenizer.json`.
    ///
    /// # Errors
    /// If a part of it cannot be written as JSON.
    pub fn to_json(&self) -> Result<String, ModelError> {
        without_panics(|| self.inner.to_string(false)).map_err(|error| failed(&self.path, &error))
    }

    /// The id of a token.
    pub(crate) fn token_id(&self, text: &str) -> Option<u32> {
        self.inner.token_to_id(text)
    }

    /// The control tokens of a chat template: the tokenizer's special tokens, and other added tokens
    /// that the template contains. Qwen's `<think>`, for example, is not special, because it is part of
    /// decoded text, but it has a meaning beyond its characters.
    pub(crate) fn control_tokens(&self, template: &str) -> Arc<ControlTokens> {
        // A panic elsewhere leaves the pair intact, because it is only replaced as a whole.
        let mut last = self.control.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((last_template, control)) = &*last
            && last_template == template
        {
            return Arc::clone(control);
        }
        let added = self.inner.get_added_tokens_decoder().into_iter();
        let added = added.filter(|(_, token)| !token.content.is_empty());
        let added = added.map(|(id, token)| ControlToken {
            text: token.content,
            id,
            special: token.special,
        });
        let control = Arc::new(ControlTokens::of(added.collect(), template));
        *last = Some((template.to_owned(), Arc::clone(&control)));
        control
    }

    /// Checks that every token is in the model's vocabulary.
    ///
    /// # Errors
    /// If the largest id is not below `vocab_size`.
    pub(crate) fn check_fits(&self, vocab_size: usize) -> Result<(), ModelError> {
        let vocabulary = self.inner.get_vocab(true);
        match vocabulary.into_iter().max_by_key(|(_, id)| *id) {
            Some((token, id)) if id as usize >= vocab_size => {
                Err(ModelError::TokenizerVocabulary {
                    path: self.path.clone(),
                    token,
                    id,
                    vocab_size,
                })
            }
            _ => Ok(()),
        }
    }

    fn literal(&self, control: &ControlTokens) -> Result<Arc<tokenizers::Tokenizer>, ModelError> {
        if let Some(literal) = control.literal.get() {
            return Ok(Arc::clone(literal));
        }
        let named: Vec<&ControlToken> = control.iter().filter(|token| !token.special).collect();
        let key = named.iter().map(|token| token.id).collect();
        // A panic elsewhere leaves the map intact, because entries are inserted as a whole.
        let mut cache = self.literal.lock().unwrap_or_else(PoisonError::into_inner);
        let literal = match cache.get(&key) {
            Some(literal) => Arc::clone(literal),
            None => {
                let literal = without_panics(|| {
                    let mut literal = self.inner.clone();
                    literal.set_encode_special_tokens(true);
                    // The library can encode only special tokens as ordinary characters, so the other
                    // control tokens become special in this copy.
                    let special = named
                        .iter()
                        .map(|token| AddedToken::from(token.text.as_str(), true));
                    literal.add_special_tokens(special)?;
                    Ok(Arc::new(literal))
                });
                let literal = literal.map_err(|error| failed(&self.path, &error))?;
                cache.insert(key, Arc::clone(&literal));
                literal
            }
        };
        Ok(Arc::clone(control.literal.get_or_init(|| literal)))
    }

    fn encode_with(
        &self,
        tokenizer: &tokenizers::Tokenizer,
        text: &str,
        add_special_tokens: bool,
    ) -> Result<Vec<u32>, ModelError> {
        let encoding = without_panics(|| tokenizer.encode_fast(text, add_special_tokens));
        encoding
            .map(|encoding| encoding.get_ids().to_vec())
            .map_err(|error| failed(&self.path, &error))
    }
}

/// The text of a `tokenizer.json`; `None` if there is no such file.
///
/// # Errors
/// If it is unreadable, not text, or longer than the bound for tokenizers, where reading stops.
pub(super) fn optional_json(path: &Path) -> Result<Option<String>, ModelError> {
    optional_text(path, checks::MAX_BYTES)
}

/// The longest reason in an error, in characters, since the library quotes what it cannot parse.
const MAX_REASON: usize = 500;

fn failed(path: &Path, reason: &impl ToString) -> ModelError {
    ModelError::Tokenizer {
        path: path.to_owned(),
        reason: truncated(reason.to_string(), MAX_REASON),
    }
}

/// Calls the tokenizer library, and turns a panic into an error.
///
/// Other threads may use the same tokenizer. The call changes only the tokenizer's caches, whose entries are
/// inserted as a whole.
fn without_panics<T>(call: impl FnOnce() -> tokenizers::Result<T>) -> tokenizers::Result<T> {
    catch_panic(call)
        .unwrap_or_else(|panic| Err(format!("the tokenizer library panicked: {panic}").into()))
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Deserialize)]
    struct Expected {
        texts: Vec<ExpectedText>,
    }

    #[derive(Deserialize)]
    struct ExpectedText {
        text: String,
        ids: Vec<u32>,
        decoded: String,
        plain_ids: Vec<u32>,
    }

    fn tiny_chat() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/tiny-chat")
    }

    #[test]
    fn ids_and_texts_are_those_of_transformers() {
        let tokenizer = Tokenizer::from_file(&tiny_chat().join("tokenizer.json")).unwrap();
        let expected = std::fs::read_to_string(tiny_chat().join("expected.json")).unwrap();
        let expected: Expected = serde_json::from_str(&expected).unwrap();
        assert!(!expected.texts.is_empty());
        for row in expected.texts {
            assert_eq!(
                tokenizer.encode(&row.text).unwrap(),
                row.ids,
                "{:?}",
                row.text
            );
            assert_eq!(
                tokenizer.encode_plain(&row.text).unwrap(),
                row.plain_ids,
                "{:?}",
                row.text
            );
            assert_eq!(
                tokenizer.decode(&row.ids).unwrap(),
                row.decoded,
                "{:?}",
                row.text
            );
        }
    }

    #[test]
    fn control_tokens_are_special_or_named_by_the_template() {
        let json = std::fs::read_to_string(tiny_chat().join("tokenizer.json")).unwrap();
        let mut json: serde_json::Value = serde_json::from_str(&json).unwrap();
        let added = json["added_tokens"].as_array_mut().unwrap();
        for (id, content) in [(256, "<think>"), (257, "<b>"), (258, "  ")] {
            added.push(serde_json::json!({
                "id": id, "content": content, "special": false, "normalized": false,
                "single_word": false, "lstrip": false, "rstrip": false,
            }));
        }
        let tokenizer = Tokenizer::from_json(&json.to_string(), Path::new("named")).unwrap();
        let special = ["<|endoftext|>", "<|im_end|>", "<|im_start|>"];
        let rows: [(&str, &[&str]); 3] = [
            ("{{ x }}", &[]),
            ("a  b", &[]),
            ("{{ '<think>' + x }}", &["<think>"]),
        ];
        for (template, named) in rows {
            let control = tokenizer.control_tokens(template);
            let texts: Vec<&str> = control.iter().map(|token| token.text.as_str()).collect();
            assert_eq!(texts, [named, &special].concat(), "in the order of texts");
            for (text, id) in [
                ("<think>", 256),
                ("<b>", 257),
                ("  ", 258),
                ("<|im_end|>", 2),
            ] {
                let ids = tokenizer
                    .encode_literal(&format!("a{text}a"), &control)
                    .unwrap();
                assert_eq!(
                    ids.contains(&id),
                    !texts.contains(&text),
                    "{template} {text}"
                );
                assert_eq!(tokenizer.decode(&ids).unwrap(), format!("a{text}a"));
            }
        }
    }

    #[test]
    fn a_written_tokenizer_reads_the_same() {
        let path = tiny_chat().join("tokenizer.json");
        let tokenizer = Tokenizer::from_file(&path).unwrap();
        let again = Tokenizer::from_json(&tokenizer.to_json().unwrap(), &path).unwrap();
        let text = "the sky is blue<|im_end|>";
        assert_eq!(again.encode(text).unwrap(), tokenizer.encode(text).unwrap());
        assert_eq!(again.vocab_size(), 256);
    }

    #[test]
    fn a_text_is_never_truncated_or_padded() {
        let json = std::fs::read_to_string(tiny_chat().join("tokenizer.json")).unwrap();
        let mut json: serde_json::Value = serde_json::from_str(&json).unwrap();
        json["truncation"] = serde_json::json!({
            "direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0,
        });
        json["padding"] = serde_json::json!({
            "strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": null,
            "pad_id": 0, "pad_type_id": 0, "pad_token": "<|endoftext|>",
        });
        let tokenizer = Tokenizer::from_json(&json.to_string(), Path::new("cut")).unwrap();
        assert_eq!(tokenizer.encode("abcdef").unwrap().len(), 6);
    }

    #[test]
    fn a_vocabulary_that_does_not_fit_is_an_error() {
        let tokenizer = Tokenizer::from_file(&tiny_chat().join("tokenizer.json")).unwrap();
        tokenizer.check_fits(256).unwrap();
        let message = tokenizer.check_fits(255).unwrap_err().to_string();
        assert!(
            message.contains("has id 255, but the model's vocabulary has 255"),
            "{message}"
        );
        assert!(message.contains("(0 to 254)"), "{message}");
    }

    #[test]
    fn a_file_that_is_not_a_tokenizer_is_an_error() {
        let message = Tokenizer::from_json("{}", Path::new("some.json"))
            .unwrap_err()
            .to_string();
        assert!(
            message.contains("the tokenizer of some.json failed"),
            "{message}"
        );
        let missing = Tokenizer::from_file(Path::new("nowhere/tokenizer.json")).unwrap_err();
        assert!(
            missing
                .to_string()
                .contains("nowhere/tokenizer.json does not exist"),
            "{missing}"
        );
    }
}
