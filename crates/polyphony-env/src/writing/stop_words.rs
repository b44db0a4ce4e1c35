//! Stop words: words that are too common to show what a text is about.

use super::text::WordSet;

/// In alphabetical order.
#[rustfmt::skip]
const STOP_WORDS: [&str; 106] = [
    "a", "all", "also", "an", "and", "any", "are", "as", "at", "bad", "be", "been", "being", "both",
    "but", "by", "can", "could", "did", "do", "does", "each", "few", "first", "for", "from", "good",
    "great", "had", "has", "have", "he", "her", "here", "him", "his", "how", "i", "if", "in", "is",
    "it", "its", "just", "last", "left", "little", "long", "low", "many", "may", "me", "might",
    "more", "most", "much", "must", "my", "new", "no", "not", "now", "of", "old", "on", "only",
    "or", "other", "our", "own", "right", "same", "shall", "should", "so", "some", "such", "than",
    "that", "the", "their", "them", "then", "there", "these", "they", "this", "those", "to", "too",
    "us", "very", "was", "we", "were", "what", "when", "where", "which", "who", "why", "will",
    "with", "would", "you", "your",
];

/// Removes the stop words.
pub(super) fn without_stop_words(mut words: WordSet) -> WordSet {
    words.retain(|word| STOP_WORDS.binary_search(&word.as_str()).is_err());
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::writing::text::word_set;

    #[test]
    fn the_list_is_the_reference_list() {
        let fixture: serde_json::Value =
            serde_json::from_str(include_str!("../../fixtures/writing-words.json")).unwrap();
        assert_eq!(serde_json::json!(STOP_WORDS[..]), fixture["stopwords"]);
    }

    #[test]
    fn every_stop_word_is_found() {
        assert!(STOP_WORDS.is_sorted());
        assert!(without_stop_words(word_set(&STOP_WORDS.join(" "))).is_empty());
        assert_eq!(
            without_stop_words(word_set("The old MILL by the river")).len(),
            2
        );
    }
}
