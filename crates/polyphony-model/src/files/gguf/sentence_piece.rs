//! The merges of a SentencePiece vocabulary, such as Gemma's.
//!
//! Such a file has a score for each token instead of merges. SentencePiece merges two adjacent tokens if their
//! texts together are a token. The token with the highest score is made first.

use std::collections::HashSet;

use super::reader::Gguf;
use crate::error::ModelError;

/// The longest token, in bytes. Without the bound, hostile vocabularies would have too many splits to look up.
const MAX_TOKEN: usize = 512;

/// The maximum number of merges, as in a `tokenizer.json`.
const MAX_MERGES: usize = 1 << 20;

/// All pairs of tokens whose texts together are a token, in the order in which they are merged. `is_merged`
/// says which tokens take part.
///
/// # Errors
/// If a token has no score, or the vocabulary has too long tokens or too many merges.
pub(super) fn merges<'a>(
    gguf: &Gguf<'_>,
    tokens: &[&'a str],
    is_merged: impl Fn(usize) -> bool,
) -> Result<Vec<[&'a str; 2]>, ModelError> {
    const KEY: &str = "tokenizer.ggml.scores";
    let scores = gguf
        .floats(KEY)?
        .ok_or_else(|| gguf.missing(KEY, "a score for each token, a list of floats"))?;
    if scores.len() != tokens.len() {
        let given = format!("a list of {} values", scores.len());
        let allowed = format!("one value for each of {} tokens", tokens.len());
        return Err(gguf.invalid(KEY, given, allowed));
    }
    let merged = tokens.iter().zip(scores).enumerate();
    let merged: Vec<(&str, f64)> = merged
        .filter(|(id, _)| is_merged(*id))
        .map(|(_, (token, score))| (*token, score))
        .collect();
    let known: HashSet<&str> = merged.iter().map(|(token, _)| *token).collect();
    let mut merges = Vec::new();
    for (token, score) in merged {
        if token.len() > MAX_TOKEN {
            let given = format!("a token of {} bytes", token.len());
            let allowed = format!("tokens of at most {MAX_TOKEN} bytes");
            return Err(gguf.invalid("tokenizer.ggml.tokens", given, allowed));
        }
        for (split, _) in token.char_indices().skip(1) {
            let (left, right) = token.split_at(split);
            if known.contains(left) && known.contains(right) {
                merges.push((score, left, right));
            }
        }
        if merges.len() > MAX_MERGES {
            let allowed = format!("a vocabulary with at most {MAX_MERGES} merges");
            return Err(gguf.invalid("tokenizer.ggml.tokens", "one with more", allowed));
        }
    }
    // Of the pairs that make the same token, transformers puts the one with the longest first part first.
    merges.sort_by(|(a, left, _), (b, other, _)| {
        b.total_cmp(a)
            .then(other.chars().count().cmp(&left.chars().count()))
    });
    Ok(merges
        .into_iter()
        .map(|(_, left, right)| [left, right])
        .collect())
}
