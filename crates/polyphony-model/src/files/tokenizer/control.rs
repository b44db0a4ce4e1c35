//! The tokens that only a chat template may write, and how they are found in a text.
//!
//! A tokenizer may have many thousands of them, so none of them is tried one by one.

use std::collections::{BTreeSet, HashSet};
use std::slice::Iter;
use std::sync::{Arc, OnceLock};

/// A token that only a chat template may write.
#[derive(Debug)]
pub(crate) struct ControlToken {
    /// How it is written, which is not empty.
    pub(crate) text: String,
    /// Its id.
    pub(crate) id: u32,
    /// Whether it is one in every text, not just in those of a template that names it.
    pub(super) special: bool,
}

/// The control tokens of a tokenizer and a chat template.
#[derive(Debug, Default)]
pub(crate) struct ControlTokens {
    /// Sorted by their text.
    tokens: Vec<ControlToken>,
    /// For each of these the place of the longest other one that it begins with.
    shorter: Vec<Option<usize>>,
    /// Whether one of them begins with a byte.
    first_bytes: Vec<bool>,
    ids: HashSet<u32>,
    edges: BTreeSet<char>,
    /// The tokenizer that is blind to them, made when first needed.
    pub(super) literal: OnceLock<Arc<tokenizers::Tokenizer>>,
}

impl ControlTokens {
    /// Those of a tokenizer's added tokens that are special or named by the template.
    pub(super) fn of(added: Vec<ControlToken>, template: &str) -> Self {
        let added = Self::new(added);
        let mut named = vec![false; added.tokens.len()];
        for (start, _) in template.char_indices() {
            let mut token = added.place_of_longest(&template[start..]);
            // Those that a named one begins with are named already.
            while let Some(place) = token.filter(|place| !named[*place]) {
                named[place] = true;
                token = added.shorter[place];
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
        let mut shorter = Vec::with_capacity(tokens.len());
        let mut first_bytes = vec![false; 256];
        let mut edges = BTreeSet::new();
        for (place, token) in tokens.iter().enumerate() {
            let mut before = place.checked_sub(1);
            while let Some(other) = before
                && !token.text.starts_with(&tokens[other].text)
            {
                before = shorter[other];
            }
            shorter.push(before);
            first_bytes[usize::from(token.text.as_bytes()[0])] = true;
            edges.extend(token.text.chars().next());
            edges.extend(token.text.chars().next_back());
        }
        Self {
            tokens,
            shorter,
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

    /// The control token at the beginning of a text. Where several begin together the longest counts,
    /// as in the tokenizer.
    pub(crate) fn longest(&self, text: &str) -> Option<&ControlToken> {
        self.place_of_longest(text).map(|place| &self.tokens[place])
    }

    fn place_of_longest(&self, text: &str) -> Option<usize> {
        let first = usize::from(*text.as_bytes().first()?);
        if self.first_bytes.get(first) != Some(&true) {
            return None;
        }
        let after = |token: &ControlToken| token.text.as_str() <= text;
        // The last one before the text begins with every token that the text begins with.
        let mut place = self.tokens.partition_point(after).checked_sub(1)?;
        let last = self.tokens[place].text.bytes();
        let common = last.zip(text.bytes()).take_while(|(a, b)| a == b).count();
        while self.tokens[place].text.len() > common {
            place = self.shorter[place]?;
        }
        Some(place)
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
