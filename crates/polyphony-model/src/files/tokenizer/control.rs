//! The tokens that only a chat template may write, and a fast search for them in a text.
//!
//! A tokenizer may have many thousands of them, so the search does not try them one by one.

use std::collections::{BTreeSet, HashSet};
use std::slice::Iter;
use std::sync::{Arc, OnceLock};

/// A token that only a chat template may write.
#[derive(Debug)]
pub(crate) struct ControlToken {
    /// Its text, which is not empty.
    pub(crate) text: String,
    /// Its id.
    pub(crate) id: u32,
    /// Whether it is a control token for every template, not only for those that contain it.
    pub(super) special: bool,
}

/// The control tokens of a tokenizer and a chat template.
#[derive(Debug, Default)]
pub(crate) struct ControlTokens {
    /// Sorted by their text.
    tokens: Vec<ControlToken>,
    /// For each token the index of its longest proper prefix among the tokens.
    longest_prefix: Vec<Option<usize>>,
    /// For each byte whether a token begins with it.
    first_bytes: Vec<bool>,
    ids: HashSet<u32>,
    edges: BTreeSet<char>,
    /// The tokenizer that encodes them as ordinary characters, built on first use.
    pub(super) literal: OnceLock<Arc<tokenizers::Tokenizer>>,
}

impl ControlTokens {
    /// Selects the added tokens of a tokenizer that are special or that the template contains.
    pub(super) fn of(added: Vec<ControlToken>, template: &str) -> Self {
        let added = Self::new(added);
        let mut named = vec![false; added.tokens.len()];
        for (start, _) in template.char_indices() {
            let mut token = added.index_of_longest(&template[start..]);
            // If a token is already named, then so are its prefixes.
            while let Some(index) = token.filter(|index| !named[*index]) {
                named[index] = true;
                token = added.longest_prefix[index];
            }
        }
        let tokens = added.tokens.into_iter().zip(named);
        let tokens = tokens
            .filter(|(token, named)| token.special || *named && !token.text.trim().is_empty());
        Self::new(tokens.map(|(token, _)| token).collect())
    }

    fn new(mut tokens: Vec<ControlToken>) -> Self {
        let ids = tokens.iter().map(|token| token.id).collect();
        tokens.sort_by(|a, b| (&a.text, a.id).cmp(&(&b.text, b.id)));
        let mut longest_prefix = Vec::with_capacity(tokens.len());
        let mut first_bytes = vec![false; 256];
        let mut edges = BTreeSet::new();
        for (index, token) in tokens.iter().enumerate() {
            let mut prefix = index.checked_sub(1);
            while let Some(candidate) = prefix
                && !token.text.starts_with(&tokens[candidate].text)
            {
                prefix = longest_prefix[candidate];
            }
            longest_prefix.push(prefix);
            first_bytes[usize::from(token.text.as_bytes()[0])] = true;
            edges.extend(token.text.chars().next());
            edges.extend(token.text.chars().next_back());
        }
        Self {
            tokens,
            longest_prefix,
            first_bytes,
            ids,
            edges,
            literal: OnceLock::new(),
        }
    }

    /// All of them.
    pub(crate) fn iter(&self) -> Iter<'_, ControlToken> {
        self.tokens.iter()
    }

    /// Whether an id is that of a control token.
    pub(crate) fn has_id(&self, id: u32) -> bool {
        self.ids.contains(&id)
    }

    /// Whether a control token begins or ends with a character.
    pub(crate) fn has_edge(&self, character: char) -> bool {
        self.edges.contains(&character)
    }

    /// The control token at the beginning of a text. If several match, the longest one is returned, as
    /// in the tokenizer.
    pub(crate) fn longest(&self, text: &str) -> Option<&ControlToken> {
        self.index_of_longest(text).map(|index| &self.tokens[index])
    }

    fn index_of_longest(&self, text: &str) -> Option<usize> {
        let first = usize::from(*text.as_bytes().first()?);
        if self.first_bytes.get(first) != Some(&true) {
            return None;
        }
        let not_after_text = |token: &ControlToken| token.text.as_str() <= text;
        // Every token that is a prefix of the text is also a prefix of the last token that does not sort
        // after the text, or is that token.
        let mut index = self.tokens.partition_point(not_after_text).checked_sub(1)?;
        let last = self.tokens[index].text.bytes();
        let common = last.zip(text.bytes()).take_while(|(a, b)| a == b).count();
        while self.tokens[index].text.len() > common {
            index = self.longest_prefix[index]?;
        }
        Some(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(texts: &[&str]) -> Vec<ControlToken> {
        let token = |(id, text): (u32, &&str)| ControlToken {
            text: (*text).to_owned(),
            id,
            special: false,
        };
        (0..).zip(texts).map(token).collect()
    }

    #[test]
    fn the_longest_token_is_found() {
        let all = [
            "a", "ab", "abcd", "abz", "b", "<", "<|", "<|x|>", "é", "éa", "ab",
        ];
        let control = ControlTokens::new(tokens(&all));
        let letters = ["a", "b", "c", "d", "<", "|", "x", ">", "é", "z"];
        let mut texts = vec![String::new()];
        for length in 0..4 {
            let longer: Vec<String> = texts
                .iter()
                .filter(|text| text.chars().count() == length)
                .flat_map(|text| letters.map(|letter| format!("{text}{letter}")))
                .collect();
            texts.extend(longer);
        }
        texts.push("<|x|>".to_owned());
        for text in texts {
            let begins = |token: &&&str| text.starts_with(**token);
            let expected = all.iter().filter(begins).max_by_key(|token| token.len());
            let found = control.longest(&text).map(|token| &token.text);
            assert_eq!(found.map(String::as_str), expected.copied(), "{text}");
        }
        assert!(ControlTokens::default().longest("a").is_none());
    }

    #[test]
    fn a_template_names_the_tokens_that_it_contains() {
        let all = ["<a>", "<a>b", "<", "  ", "b", "c", "x<a>"];
        let rows: [(&str, &[&str]); 4] = [
            ("", &[]),
            ("a  >", &[]),
            ("{<a>}", &["<", "<a>"]),
            ("<a>bx<a>", &["<", "<a>", "<a>b", "b", "x<a>"]),
        ];
        for (template, expected) in rows {
            let control = ControlTokens::of(tokens(&all), template);
            let named: Vec<&str> = control.iter().map(|token| token.text.as_str()).collect();
            assert_eq!(named, expected, "{template}");
        }
    }
}
