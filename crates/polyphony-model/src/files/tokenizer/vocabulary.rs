//! Counts the large parts of a `tokenizer.json` without storing them.

use std::collections::BTreeSet;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// The sizes of a vocabulary, which is a map from tokens to ids or a list of tokens with scores.
#[derive(Default)]
pub(super) struct Vocabulary {
    pub(super) is_unigram: bool,
    pub(super) tokens: usize,
    pub(super) longest: usize,
    pub(super) largest_id: u64,
    /// The number of different prefixes of the tokens in a list.
    pub(super) nodes: usize,
}

impl Vocabulary {
    fn add(&mut self, length: usize) {
        self.tokens += 1;
        self.longest = self.longest.max(length);
    }
}

impl<'de> Deserialize<'de> for Vocabulary {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Tokens;

        impl<'de> Visitor<'de> for Tokens {
            type Value = Vocabulary;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a vocabulary")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vocabulary, A::Error> {
                let mut vocabulary = Vocabulary::default();
                while let Some((token, id)) = map.next_entry::<Length, u64>()? {
                    vocabulary.add(token.0);
                    vocabulary.largest_id = vocabulary.largest_id.max(id);
                }
                Ok(vocabulary)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut tokens: A) -> Result<Vocabulary, A::Error> {
                let mut vocabulary = Vocabulary {
                    is_unigram: true,
                    ..Vocabulary::default()
                };
                let mut sorted = BTreeSet::new();
                while let Some((token, _)) = tokens.next_element::<(String, IgnoredAny)>()? {
                    vocabulary.add(token.len());
                    sorted.insert(token);
                }
                let mut previous = "";
                for token in &sorted {
                    let pairs = token.bytes().zip(previous.bytes());
                    let shared = pairs.take_while(|(a, b)| a == b).count();
                    vocabulary.nodes += token.len() - shared;
                    previous = token;
                }
                Ok(vocabulary)
            }
        }

        deserializer.deserialize_any(Tokens)
    }
}

/// The length of a text in bytes. The text is not copied: copying all texts of a large vocabulary would take
/// as long as reading the file with the library.
struct Length(usize);

impl<'de> Deserialize<'de> for Length {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        impl Visitor<'_> for Text {
            type Value = Length;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a text")
            }

            fn visit_str<E>(self, text: &str) -> Result<Length, E> {
                Ok(Length(text.len()))
            }
        }

        deserializer.deserialize_str(Text)
    }
}

/// The number of elements of an array.
#[derive(Default)]
pub(super) struct Count(pub(super) usize);

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Elements;

        impl<'de> Visitor<'de> for Elements {
            type Value = Count;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an array")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Count, A::Error> {
                let mut count = 0;
                while elements.next_element::<IgnoredAny>()?.is_some() {
                    count += 1;
                }
                Ok(Count(count))
            }
        }

        deserializer.deserialize_seq(Elements)
    }
}
