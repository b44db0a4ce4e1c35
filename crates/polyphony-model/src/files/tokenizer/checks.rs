//! Checks a `tokenizer.json` before the tokenizer library reads it.
//!
//! The library trusts the file: on some values it panics, on others it overflows or allocates memory
//! without bound. The limits below are several times what the tokenizers of known models need. Parts
//! are recognized by their keys, since the library does not always look at their `type`.

use serde::Deserialize;
use serde_json::Value;

use super::super::read::check_json;
use super::vocabulary::{Count, Vocabulary};
use super::{charsmap, pattern};

/// The largest file, in bytes.
pub(super) const MAX_BYTES: u64 = 64 << 20;
/// The most values in the file, and the most objects among them.
const MAX_VALUES: usize = 2_500_000;
const MAX_OBJECTS: usize = 1 << 17;
/// The most tokens, and the most merges.
const MAX_TOKENS: usize = 1 << 19;
const MAX_MERGES: usize = 1 << 20;
/// The largest id.
const MAX_ID: u64 = (1 << 22) - 1;
/// The longest token, in bytes.
const MAX_TOKEN: usize = 4096;
/// The longest token of a `Unigram` model, in bytes, and the most nodes of its tree of tokens, which has
/// a node for each prefix of a token.
const MAX_UNIGRAM_TOKEN: usize = 256;
const MAX_NODES: usize = 1_250_000;
/// The most added tokens, and the most bytes of their texts together.
const MAX_ADDED: usize = 1 << 16;
const MAX_ADDED_TEXT: usize = 4 << 20;
/// The longest text that is added before or after a word or a token, in bytes.
const MAX_AFFIX: usize = 64;
/// The longest word of a `WordPiece` model, in characters; the work is quadratic in it.
const MAX_WORD: u64 = 256;
/// The most parts of all sequences together. The pieces of a template and the ids of a token have the same
/// limit.
const MAX_PARTS: usize = 64;
/// The deepest nesting of sequences.
const MAX_NESTING: usize = 4;
/// The most ranges of characters in all patterns together, each of which takes eight bytes.
const MAX_RANGES: u64 = 1 << 18;
/// The largest factor by which normalizer and pre-tokenizer may lengthen a text, and the decoder a token.
const MAX_ENCODED_GROWTH: f64 = 1024.0;
const MAX_DECODED_GROWTH: f64 = 16.0;

/// What remains to be checked once the library has read the text.
#[derive(Debug, Default)]
pub(super) struct CheckedTokenizer {
    /// The ids that the post-processor adds around a text. Each must be the id of a token.
    pub(super) added_ids: Vec<u64>,
}

/// Checks the text of a `tokenizer.json`.
///
/// # Errors
/// If it is not JSON, or a value could make the tokenizer library fail, or take more time or memory
/// than the tokenizer of any known model. The error names the key.
pub(super) fn check(json: &str) -> Result<CheckedTokenizer, String> {
    if json.len() as u64 > MAX_BYTES {
        return Err(format!("it has more than {MAX_BYTES} bytes"));
    }
    check_json(json.as_bytes(), MAX_VALUES, MAX_OBJECTS)
        .map_err(|bound| format!("it has more than {bound}"))?;
    let file: File = serde_json::from_str(json).map_err(|error| error.to_string())?;

    file.model.check()?;
    if file
        .model
        .continuing_subword_prefix
        .as_deref()
        .is_some_and(|prefix| !prefix.is_empty())
    {
        check_merges(json)?;
    }
    let added = &file.added_tokens;
    at_most("added_tokens", "tokens", added.len(), MAX_ADDED)?;
    let text = added.iter().map(|token| token.content.len()).sum();
    at_most("added_tokens", "bytes of text", text, MAX_ADDED_TEXT)?;
    for (index, token) in added.iter().enumerate() {
        let key = format!("added_tokens[{index}].content");
        at_most(&key, "bytes", token.content.len(), MAX_TOKEN)?;
    }

    let mut parts = Parts::default();
    let normalizer = parts.growth(&file.normalizer, "normalizer", 0)?;
    let pre_tokenizer = parts.growth(&file.pre_tokenizer, "pre_tokenizer", 0)?;
    let decoder = parts.growth(&file.decoder, "decoder", 0)?;
    parts.growth(&file.post_processor, "post_processor", 0)?;
    grows_at_most(
        "normalizer and pre_tokenizer",
        // A text has at least one byte, so `n` prepended bytes lengthen it by a factor of at most `1 + n`.
        normalizer * pre_tokenizer * (1 + parts.prepended) as f64,
        MAX_ENCODED_GROWTH,
    )?;
    grows_at_most("decoder", decoder, MAX_DECODED_GROWTH)?;
    let normalized = added.iter().filter(|token| token.normalized);
    let text: usize = normalized.map(|token| token.content.len()).sum();
    if text as f64 * normalizer > MAX_ADDED_TEXT as f64 {
        return Err(format!(
            "added_tokens and normalizer could together make more than {MAX_ADDED_TEXT} bytes of text"
        ));
    }
    if parts.templates > 1 {
        return Err("post_processor puts tokens around a text more than once".to_owned());
    }
    Ok(CheckedTokenizer {
        added_ids: parts.added_ids,
    })
}

fn at_most(key: &str, what: &str, given: usize, limit: usize) -> Result<(), String> {
    if given > limit {
        return Err(format!(
            "{key} has {given} {what}, but at most {limit} are allowed"
        ));
    }
    Ok(())
}

fn grows_at_most(key: &str, growth: f64, limit: f64) -> Result<(), String> {
    if growth > limit {
        return Err(format!(
            "{key} could make a text more than {limit} times longer"
        ));
    }
    Ok(())
}

/// The parts of the file that are checked. A key that occurs twice is an error.
#[derive(Deserialize)]
struct File {
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    post_processor: Value,
    #[serde(default)]
    decoder: Value,
    model: Model,
}

#[derive(Deserialize)]
struct AddedToken {
    content: String,
    #[serde(default)]
    normalized: bool,
}

#[derive(Deserialize)]
struct Model {
    vocab: Vocabulary,
    #[serde(default)]
    merges: Count,
    unk_token: Option<String>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    max_input_chars_per_word: Option<u64>,
}

impl Model {
    fn check(&self) -> Result<(), String> {
        let vocabulary = &self.vocab;
        at_most("model.vocab", "tokens", vocabulary.tokens, MAX_TOKENS)?;
        at_most("model.merges", "merges", self.merges.0, MAX_MERGES)?;
        if vocabulary.largest_id > MAX_ID {
            return Err(format!(
                "model.vocab has the id {}, but the largest allowed is {MAX_ID}",
                vocabulary.largest_id
            ));
        }
        let longest = match vocabulary.is_unigram {
            true => MAX_UNIGRAM_TOKEN,
            false => MAX_TOKEN,
        };
        at_most(
            "a token of model.vocab",
            "bytes",
            vocabulary.longest,
            longest,
        )?;
        at_most(
            "the tree of model.vocab",
            "nodes",
            vocabulary.nodes,
            MAX_NODES,
        )?;
        let affixes = [
            ("model.unk_token", &self.unk_token, MAX_TOKEN),
            (
                "model.continuing_subword_prefix",
                &self.continuing_subword_prefix,
                MAX_AFFIX,
            ),
            (
                "model.end_of_word_suffix",
                &self.end_of_word_suffix,
                MAX_AFFIX,
            ),
        ];
        for (key, affix, limit) in affixes {
            at_most(key, "bytes", affix.as_ref().map_or(0, String::len), limit)?;
        }
        match self.max_input_chars_per_word {
            Some(word) if word > MAX_WORD => Err(format!(
                "model.max_input_chars_per_word is {word}, but at most {MAX_WORD} are allowed"
            )),
            _ => Ok(()),
        }
    }
}

/// Refuses merges whose second token lacks the prefix of continuing tokens, because the library removes
/// that many bytes from it without checking.
fn check_merges(json: &str) -> Result<(), String> {
    #[derive(Deserialize)]
    struct File {
        model: Model,
    }

    #[derive(Deserialize)]
    struct Model {
        #[serde(default)]
        merges: Vec<Merge>,
        #[serde(default)]
        continuing_subword_prefix: String,
    }

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Merge {
        Pair([String; 2]),
        Line(String),
    }

    let model = serde_json::from_str::<File>(json)
        .map_err(|error| error.to_string())?
        .model;
    let prefix = &model.continuing_subword_prefix;
    for merge in &model.merges {
        let second = match merge {
            Merge::Pair([_, second]) => second,
            Merge::Line(line) => line.split_once(' ').map_or("", |(_, second)| second),
        };
        if !second.starts_with(prefix) {
            return Err(format!(
                "model.merges has the second token {second:?}, which does not begin with \
                 model.continuing_subword_prefix {prefix:?}"
            ));
        }
    }
    Ok(())
}

/// Totals over all parts of a tokenizer.
#[derive(Default)]
struct Parts {
    /// The ids that post-processors add around a text.
    added_ids: Vec<u64>,
    templates: usize,
    /// The number of parts of sequences.
    count: usize,
    /// The number of bytes that are prepended to a text.
    prepended: usize,
    /// The number of ranges of characters in patterns.
    ranges: u64,
}

impl Parts {
    /// Checks a part and returns the factor by which it may lengthen a text.
    fn growth(&mut self, part: &Value, key: &str, nesting: usize) -> Result<f64, String> {
        let part = match part {
            Value::Null => return Ok(1.0),
            Value::Object(part) => part,
            _ => return Err(format!("{key} is not an object")),
        };
        if part.contains_key("single") || part.contains_key("sep") || part.contains_key("cls") {
            self.templates += 1;
        }
        let mut growth = 1.0;
        for (name, value) in part {
            let key = format!("{key}.{name}");
            growth *= match (name.as_str(), value) {
                ("type", Value::String(kind)) => growth_of_type(kind),
                ("normalizers" | "pretokenizers" | "decoders" | "processors", value) => {
                    self.sequence(value, &key, nesting + 1)?
                }
                ("pattern", value) => self.replacement(value, part.get("content"), &key)?,
                ("precompiled_charsmap", Value::String(map)) => charsmap::longest_text(map)
                    .map_err(|reason| format!("{key} {reason}"))?
                    .max(1) as f64,
                ("precompiled_charsmap", _) => return Err(format!("{key} is not a text")),
                ("prepend", Value::String(text)) => {
                    at_most(&key, "bytes", text.len(), MAX_AFFIX)?;
                    self.prepended += text.len();
                    1.0
                }
                ("length", value) if *value == 0 => {
                    return Err(format!("{key} is 0, but has to be 1 or more"));
                }
                ("suffix" | "word_delimiter_token", Value::String(text)) if text.is_empty() => {
                    return Err(format!("{key} is empty, so it would match everywhere"));
                }
                ("single", value) => {
                    self.template(value, part.get("special_tokens"), &key)?;
                    1.0
                }
                ("sep" | "cls", value) => {
                    self.added_ids.extend(value.get(1).and_then(Value::as_u64));
                    1.0
                }
                _ => 1.0,
            };
        }
        Ok(growth)
    }

    fn sequence(&mut self, parts: &Value, key: &str, nesting: usize) -> Result<f64, String> {
        let Value::Array(parts) = parts else {
            return Err(format!("{key} is not an array"));
        };
        if nesting > MAX_NESTING {
            return Err(format!(
                "{key} nests sequences more than {MAX_NESTING} deep"
            ));
        }
        at_most(key, "parts", parts.len(), MAX_PARTS)?;
        self.count += parts.len();
        let all = format!("{key}, with the sequences before it,");
        at_most(&all, "parts", self.count, MAX_PARTS)?;
        let mut growth = 1.0;
        for (index, part) in parts.iter().enumerate() {
            growth *= self.growth(part, &format!("{key}[{index}]"), nesting)?;
        }
        Ok(growth)
    }

    /// Checks the template of a post-processor for one text.
    fn template(
        &mut self,
        pieces: &Value,
        tokens: Option<&Value>,
        key: &str,
    ) -> Result<(), String> {
        let Value::Array(pieces) = pieces else {
            return Err(format!("{key} is not an array"));
        };
        at_most(key, "pieces", pieces.len(), MAX_PARTS)?;
        let mut sequences = 0;
        for piece in pieces {
            if let Some(sequence) = piece.get("Sequence") {
                if sequence["id"] != "A" {
                    return Err(format!(
                        "{key} has the sequence {}, but a single text is only \"A\"",
                        sequence["id"]
                    ));
                }
                sequences += 1;
            }
            if let Some(special) = piece.get("SpecialToken") {
                let name = special["id"].as_str().unwrap_or_default();
                let token = tokens.and_then(|tokens| tokens.get(name));
                let entries = |list| token.and_then(|token| token.get(list)?.as_array());
                let (Some(ids), Some(texts)) = (entries("ids"), entries("tokens")) else {
                    return Err(format!(
                        "{key} has the token {name:?}, which is not defined"
                    ));
                };
                if ids.len() != texts.len() {
                    return Err(format!(
                        "the token {name:?} of {key} has {} ids, but {} texts",
                        ids.len(),
                        texts.len()
                    ));
                }
                at_most(
                    &format!("the token {name:?} of {key}"),
                    "ids",
                    ids.len(),
                    MAX_PARTS,
                )?;
                self.added_ids.extend(ids.iter().filter_map(Value::as_u64));
            }
        }
        if sequences != 1 {
            return Err(format!(
                "{key} has the text {sequences} times, but has to have it once"
            ));
        }
        Ok(())
    }

    /// Checks a pattern and returns the factor by which a text grows if its matches are replaced.
    fn replacement(
        &mut self,
        pattern: &Value,
        content: Option<&Value>,
        key: &str,
    ) -> Result<f64, String> {
        let shortest = match (pattern.get("String"), pattern.get("Regex")) {
            (Some(Value::String(text)), _) => {
                at_most(key, "bytes", text.len(), MAX_TOKEN)?;
                text.len() as u64
            }
            (_, Some(Value::String(text))) => {
                let pattern = pattern::read(text).map_err(|reason| format!("{key} {reason}"))?;
                self.ranges = self.ranges.saturating_add(pattern.ranges);
                pattern.shortest
            }
            _ => return Err(format!("{key} is neither a String nor a Regex")),
        };
        if self.ranges > MAX_RANGES {
            return Err(format!(
                "{key}, with the patterns before it, has more than {MAX_RANGES} ranges of \
                 characters, counting {} for a property",
                pattern::PROPERTY_RANGES
            ));
        }
        let Some(Value::String(content)) = content else {
            return Ok(1.0);
        };
        if shortest == 0 {
            return Err(format!(
                "{key} can match the empty text, which cannot be replaced"
            ));
        }
        at_most(
            &format!("the content for {key}"),
            "bytes",
            content.len(),
            MAX_TOKEN,
        )?;
        Ok((content.len() as f64 / shortest as f64).max(1.0))
    }
}

/// The factor by which a part of this type may lengthen a text.
fn growth_of_type(kind: &str) -> f64 {
    match kind {
        "ByteLevel" | "Lowercase" => 2.0,
        "NFC" | "NFD" | "Metaspace" => 3.0,
        "BertNormalizer" => 5.0,
        "NFKC" | "NFKD" => 12.0,
        _ => 1.0,
    }
}
