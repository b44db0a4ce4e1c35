//! The writing reward: five parts, at most 3.0 together. Both tasks use it, each with its own [`Rules`].
//!
//! | part | at most | measures |
//! | --- | --- | --- |
//! | `structure` (gate) | 0.5 | the number of words of each text |
//! | `length` (gate) | 1.0 | the ratio of lengths, second text to first |
//! | `vocabulary` (gate) | 0.5 | the ratio of distinct words, second text to first |
//! | `transitions` | 0.4 | transition phrases |
//! | `overlap` | 0.6 | words that both texts use |
//!
//! The parts are scored in this order. A *gate* is a part that has a range. If a pair of texts is outside
//! the range, scoring stops, and this part and all later parts are 0. Inside the range scoring continues,
//! even if the part itself is 0 there.
//!
//! `transitions` and `overlap` are separate parts because two texts on one subject nearly always share
//! enough words: a curve of the sum would hide whether transitions are being learned.

use std::ops::RangeInclusive;

use polyphony_episode::Reward;

use super::{
    curve::Trapezoid,
    stop_words::without_stop_words,
    text::{char_count, jaccard, word_count, word_set},
    transitions::transition_score,
};

/// The names of the reward's parts, in the order in which they are scored.
pub(super) const PARTS: [&str; 5] = [
    "structure",
    "length",
    "vocabulary",
    "transitions",
    "overlap",
];

/// The weight of each part, in the order of [`PARTS`]. A part is this weight times a value in `[0, 1]`.
const WEIGHTS: [f64; 5] = [0.5, 1.0, 0.5, 0.4, 0.6];

/// The rules by which a task scores its two texts.
#[derive(Debug)]
pub(super) struct Rules {
    /// The allowed number of words of each text.
    pub(super) words: RangeInclusive<usize>,
    /// The value of `length` at a ratio of characters, second text to first.
    pub(super) length: Trapezoid,
    /// The value of `vocabulary` at a ratio of distinct words, second text to first.
    pub(super) vocabulary: Trapezoid,
    /// The text in which transition phrases count.
    pub(super) transitions: TransitionsIn,
    /// The smallest Jaccard similarity at which the overlap has its full value.
    pub(super) full_overlap: f64,
}

/// The text in which transition phrases count.
#[derive(Clone, Copy, Debug)]
pub(super) enum TransitionsIn {
    /// The second text.
    Second,
    /// Both texts, joined without a separator.
    Both,
}

/// Scores a pair of texts. The reward has every part. Parts that scoring did not reach are 0.
pub(super) fn reward(rules: &Rules, first: &str, second: &str) -> Reward {
    let mut values = [0.0; PARTS.len()];
    score_parts(rules, first, second, &mut values);
    let parts = values
        .iter()
        .zip(WEIGHTS)
        .map(|(value, weight)| value * weight);
    Reward::new(PARTS.into_iter().zip(parts))
}

/// Sets the values of the parts, each in `[0, 1]`, in the order of [`PARTS`]. Returns `None` at the first
/// gate that the texts do not pass.
fn score_parts(
    rules: &Rules,
    first: &str,
    second: &str,
    values: &mut [f64; PARTS.len()],
) -> Option<()> {
    let [structure, length, vocabulary, transitions, overlap] = values;

    let fits = |text| rules.words.contains(&word_count(text));
    *structure = (fits(first) && fits(second)).then_some(1.0)?;

    *length = rules
        .length
        .at(ratio(char_count(second), char_count(first))?)?;

    let [first_words, second_words] = [first, second].map(word_set);
    *vocabulary = rules
        .vocabulary
        .at(ratio(second_words.len(), first_words.len())?)?;

    *transitions = match rules.transitions {
        TransitionsIn::Second => transition_score(second),
        TransitionsIn::Both => transition_score(&[first, second].concat()),
    };
    let similarity = jaccard(
        &without_stop_words(first_words),
        &without_stop_words(second_words),
    );
    *overlap = (similarity / rules.full_overlap).min(1.0);
    Some(())
}

/// `second / first`; `None` if `first` is 0.
fn ratio(second: usize, first: usize) -> Option<f64> {
    (first > 0).then(|| second as f64 / first as f64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::Deserialize;

    use super::*;
    use crate::{Writing, writing::tasks};

    #[derive(Deserialize)]
    struct ScoredTexts {
        first: String,
        second: String,
        tldr: f64,
        arxiv: f64,
    }

    #[test]
    fn every_conformance_row_matches() {
        let rows: Vec<ScoredTexts> = include_str!("../../fixtures/writing.jsonl")
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(rows.len(), 341);
        for (
            line,
            ScoredTexts {
                first,
                second,
                tldr,
                arxiv,
            },
        ) in (1..).zip(&rows)
        {
            for (rules, expected) in [(&tasks::TLDR.rules, tldr), (&tasks::ARXIV.rules, arxiv)] {
                let total = reward(rules, first, second).total();
                assert!(
                    (total - expected).abs() < 1e-9,
                    "line {line}: {total}, expected {expected}"
                );
            }
        }
    }

    /// A text of `words` words, `distinct` of which are different, with `chars` characters.
    ///
    /// Words are numbers, so that neither stop words nor transition phrases occur. Spaces at the
    /// end fill up the length.
    fn text(words: usize, distinct: usize, chars: usize) -> String {
        let numbers: Vec<String> = (0..words).map(|i| (i % distinct).to_string()).collect();
        let text = numbers.join(" ");
        assert!(
            text.len() <= chars,
            "{words} words need {} characters",
            text.len()
        );
        format!("{text:chars$}")
    }

    fn check(rules: &Rules, first: &str, second: &str, expected: [f64; 5]) {
        let reward = reward(rules, first, second);
        for ((name, value), expected) in reward.parts().zip(expected) {
            assert!(
                (value - expected).abs() < 1e-9,
                "{name} is {value}, expected {expected} for {first:?} and {second:?}"
            );
        }
    }

    #[test]
    fn structure_needs_both_texts_in_the_range_of_words() {
        for (rules, [low, high]) in [
            (&tasks::TLDR.rules, [8, 256]),
            (&tasks::ARXIV.rules, [128, 256]),
        ] {
            let rows = [
                (low, low, 0.5),
                (low, high, 0.5),
                (high, low, 0.5),
                (low - 1, low, 0.0),
                (low, low - 1, 0.0),
                (high + 1, high, 0.0),
                (high, high + 1, 0.0),
                (0, 0, 0.0),
            ];
            for (first, second, expected) in rows {
                let [first, second] = [first, second].map(|words| text(words, 4, 600));
                assert_eq!(
                    reward(rules, &first, &second).part("structure"),
                    Some(expected)
                );
            }
        }
    }

    #[test]
    fn length_is_a_trapezoid_over_the_ratio_of_characters() {
        let tldr = [
            (109, 0.0),
            (110, 0.0),
            (135, 0.5),
            (160, 1.0),
            (320, 1.0),
            (410, 0.5),
            (500, 0.0),
            (501, 0.0),
        ];
        for (percent, expected) in tldr {
            let (first, second) = (text(8, 4, 100), text(16, 8, percent));
            // Both ends belong to the range, so the next parts are scored there too.
            let is_in_range = (110..=500).contains(&percent);
            let [vocabulary, overlap] = if is_in_range { [0.5, 0.6] } else { [0.0, 0.0] };
            check(
                &tasks::TLDR.rules,
                &first,
                &second,
                [0.5, expected, vocabulary, 0.0, overlap],
            );
        }
        let arxiv = [
            (479, 0.0),
            (480, 0.0),
            (630, 0.5),
            (780, 1.0),
            (960, 1.0),
            (1080, 0.5),
            (1200, 0.0),
            (1201, 0.0),
        ];
        for (chars, expected) in arxiv {
            let (first, second) = (text(128, 10, 600), text(128, 10, chars));
            let is_in_range = (480..=1200).contains(&chars);
            let [vocabulary, overlap] = if is_in_range { [0.5, 0.6] } else { [0.0, 0.0] };
            check(
                &tasks::ARXIV.rules,
                &first,
                &second,
                [0.5, expected, vocabulary, 0.0, overlap],
            );
        }
    }

    #[test]
    fn vocabulary_is_a_trapezoid_over_the_ratio_of_distinct_words() {
        for (distinct, expected, is_in_range) in [
            (12, 0.0, false),
            (13, 0.0, true),
            (15, 0.5 * 2.0 / 7.0, true),
            (20, 0.5, true),
            (60, 0.5, true),
        ] {
            let (first, second) = (text(10, 10, 100), text(60, distinct, 200));
            let overlap = if is_in_range { 0.6 } else { 0.0 };
            check(
                &tasks::TLDR.rules,
                &first,
                &second,
                [0.5, 1.0, expected, 0.0, overlap],
            );
        }
        for (distinct, expected, is_in_range) in [
            (49, 0.0, false),
            (50, 0.0, true),
            (60, 0.25, true),
            (70, 0.5, true),
            (130, 0.5, true),
            (150, 0.25, true),
            (170, 0.0, true),
            (171, 0.0, false),
        ] {
            let (first, second) = (text(200, 100, 1000), text(200, distinct, 1500));
            let overlap = if is_in_range { 0.6 } else { 0.0 };
            check(
                &tasks::ARXIV.rules,
                &first,
                &second,
                [0.5, 1.0, expected, 0.0, overlap],
            );
        }
    }

    #[test]
    fn a_first_text_without_words_ends_at_vocabulary() {
        let first = "- ".repeat(8);
        let second = text(8, 8, 32);
        check(
            &tasks::TLDR.rules,
            &first,
            &second,
            [0.5, 1.0, 0.0, 0.0, 0.0],
        );
        assert_eq!(ratio(1, 0), None);
    }

    #[test]
    fn transitions_count_in_the_second_text_or_across_both() {
        let rules = [&tasks::TLDR.rules, &tasks::ARXIV.rules];
        let pairs = [
            // The phrase is in the first text, then in the second, then only in the two texts joined.
            (
                format!("namely {}", text(127, 10, 593)),
                text(128, 16, 960),
                [0.0, 0.16],
            ),
            (
                text(128, 10, 600),
                format!("namely {}", text(127, 14, 953)),
                [0.16, 0.16],
            ),
            (
                format!("{}name", text(128, 10, 596)),
                format!("ly {}", text(128, 15, 957)),
                [0.0, 0.16],
            ),
        ];
        for (first, second, expected) in pairs {
            for (rules, expected) in rules.iter().zip(expected) {
                let reward = reward(rules, &first, &second);
                assert!(reward.part("overlap") > Some(0.0), "all gates are passed");
                let transitions = reward.part("transitions").unwrap();
                assert!(
                    (transitions - expected).abs() < 1e-12,
                    "{transitions}: {first:?}"
                );
            }
        }
    }

    #[test]
    fn overlap_ignores_stop_words_and_is_capped() {
        let overlap = |first: &str, second: &str| {
            reward(&tasks::TLDR.rules, first, second)
                .part("overlap")
                .unwrap()
        };
        let numbers = |range: std::ops::Range<usize>| {
            range.map(|i| i.to_string()).collect::<Vec<_>>().join(" ")
        };
        // The texts share 1 of 100 distinct words, a third of the similarity that earns the full value.
        let first = numbers(0..30);
        assert!((overlap(&first, &numbers(29..100)) - 0.6 / 3.0).abs() < 1e-9);
        assert_eq!(overlap(&first, &numbers(30..101)), 0.0);
        assert_eq!(overlap(&first, &numbers(20..101)), 0.6);
        let [first, second] = [&first, &numbers(30..101)].map(|text| format!("{text} the of and"));
        assert_eq!(overlap(&first, &second), 0.0, "stop words are no overlap");
        // Two texts that consist only of stop words have the full overlap.
        assert_eq!(
            overlap(
                "you you you you you you me me",
                &"him her his how i of a the ".repeat(3)
            ),
            0.6
        );
    }

    fn any_text() -> impl Strategy<Value = String> {
        let word = prop_oneof![
            4 => "[a-z]{1,8}",
            1 => Just("the".to_owned()),
            1 => Just("however".to_owned()),
            1 => "\\PC{0,5}",
        ];
        prop::collection::vec(word, 0..300).prop_map(|words| words.join(" "))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn rewards_are_bounded_complete_and_gated(first in any_text(), second in any_text()) {
            for rules in [&tasks::TLDR.rules, &tasks::ARXIV.rules] {
                let reward = reward(rules, &first, &second);
                let names: Vec<&str> = reward.parts().map(|(name, _)| name).collect();
                prop_assert_eq!(names, PARTS);
                for ((name, value), weight) in reward.parts().zip(WEIGHTS) {
                    prop_assert!((0.0..=weight).contains(&value), "{} is {}", name, value);
                }
                prop_assert!((0.0..=Writing::MAX_REWARD).contains(&reward.total()));

                let part = |name| reward.part(name).unwrap();
                let after_structure = reward.total() - part("structure");
                let length = char_count(&second) as f64 / char_count(&first) as f64;
                prop_assert!(part("structure") == 0.5 || reward.total() == 0.0);
                prop_assert!(rules.length.at(length).is_some() || after_structure == 0.0);
            }
        }

        #[test]
        fn any_input_scores_without_a_panic(first in ".*", second in ".*") {
            for rules in [&tasks::TLDR.rules, &tasks::ARXIV.rules] {
                prop_assert!(reward(rules, &first, &second).total().is_finite());
            }
        }
    }
}
