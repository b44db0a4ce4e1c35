//! Counts of words and characters, and word sets, as the writing rewards define them.

use std::collections::HashSet;

use unicode_general_category::{GeneralCategory, get_general_category};

/// The distinct words of a text, in lower case.
pub(super) type WordSet = HashSet<String>;

/// The number of words, separated by Unicode white space.
pub(super) fn word_count(text: &str) -> usize {
    text.split_whitespace().count()
}

/// The text's length in characters, not bytes.
pub(super) fn char_count(text: &str) -> usize {
    text.chars().count()
}

/// The maximal runs of letters, numbers and underscores in the lower-cased text.
pub(super) fn word_set(text: &str) -> WordSet {
    text.to_lowercase()
        .split(|c| !is_word_char(c))
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
        .collect()
}

/// Jaccard similarity: size of the intersection divided by size of the union; 1 if both sets are empty.
pub(super) fn jaccard(first: &WordSet, second: &WordSet) -> f64 {
    let shared = first.intersection(second).count();
    let union = first.len() + second.len() - shared;
    if union == 0 {
        1.0
    } else {
        shared as f64 / union as f64
    }
}

/// Whether a character has the Unicode general category L or N, or is an underscore. Combining marks
/// (category M) do not count, so a decomposed accent ends a word.
fn is_word_char(c: char) -> bool {
    use GeneralCategory::{
        DecimalNumber, LetterNumber, LowercaseLetter, ModifierLetter, OtherLetter, OtherNumber,
        TitlecaseLetter, UppercaseLetter,
    };
    c == '_'
        || matches!(
            get_general_category(c),
            UppercaseLetter
                | LowercaseLetter
                | TitlecaseLetter
                | ModifierLetter
                | OtherLetter
                | DecimalNumber
                | LetterNumber
                | OtherNumber
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_split_on_unicode_white_space_only() {
        let rows = [
            ("", 0),
            (" \n\t ", 0),
            ("one", 1),
            ("well-being, e.g. this", 3),
            ("no\u{a0}break\u{3000}wide\u{2028}line", 4),
            ("zero\u{200b}width joins", 2),
        ];
        for (text, expected) in rows {
            assert_eq!(word_count(text), expected, "{text:?}");
        }
    }

    #[test]
    fn lengths_are_in_characters() {
        assert_eq!(char_count("東京 é"), 4);
        assert_eq!(
            char_count("e\u{301}"),
            2,
            "a combining mark is a character of its own"
        );
    }

    #[test]
    fn word_sets_hold_lower_case_runs() {
        let rows: [(&str, &[&str]); 8] = [
            ("", &[]),
            ("... – !", &[]),
            ("The cat, the CAT", &["the", "cat"]),
            ("don't well-being", &["don", "t", "well", "being"]),
            ("x_1 _ 3.14", &["x_1", "_", "3", "14"]),
            ("東京 ½ Ⅻ", &["東京", "½", "ⅻ"]),
            ("cafe\u{301}s", &["cafe", "s"]),
            ("İstanbul ΟΔΟΣ", &["i", "stanbul", "οδος"]),
        ];
        for (text, expected) in rows {
            let expected: WordSet = expected.iter().map(|word| (*word).to_owned()).collect();
            assert_eq!(word_set(text), expected, "{text:?}");
        }
    }

    #[test]
    fn jaccard_is_shared_over_union() {
        let rows = [
            ("", "", 1.0),
            ("a b", "", 0.0),
            ("a b c", "b c d", 0.5),
            ("a b", "b a", 1.0),
        ];
        for (first, second, expected) in rows {
            assert_eq!(jaccard(&word_set(first), &word_set(second)), expected);
        }
    }
}
