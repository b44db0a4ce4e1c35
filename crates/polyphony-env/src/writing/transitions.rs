//! Transition phrases: the words that lead from one thought to the next.

/// Phrases by category, in lower case. A phrase may belong to several categories.
#[rustfmt::skip]
const CATEGORIES: [(&str, &[&str]); 12] = [
    ("elaboration", &[
        "furthermore", "moreover", "additionally", "also", "besides", "in addition", "what is more",
        "not only", "as well as", "along with", "coupled with", "together with", "likewise",
        "similarly", "equally important", "by the same token", "in the same way", "correspondingly",
        "in like manner", "comparatively", "analogously",
    ]),
    ("examples", &[
        "for example", "for instance", "specifically", "particularly", "namely", "such as",
        "including", "especially", "in particular", "to illustrate", "as an illustration",
        "case in point", "to demonstrate", "as evidence", "to exemplify", "notably", "markedly",
        "chiefly", "mainly", "primarily", "above all", "most importantly",
    ]),
    ("explanation", &[
        "that is", "in other words", "to put it simply", "to clarify", "indeed", "in fact",
        "actually", "clearly", "obviously", "to put it another way", "to rephrase",
        "more precisely", "specifically speaking", "what this means is", "the point is",
        "essentially", "basically", "fundamentally", "at its core", "in essence", "simply put",
        "stated differently",
    ]),
    ("cause_effect", &[
        "therefore", "thus", "consequently", "as a result", "hence", "accordingly",
        "for this reason", "due to this", "because of this", "so", "then", "thereby", "wherefore",
        "thence", "ergo", "as a consequence", "in consequence", "it follows that", "this leads to",
        "this results in", "this causes", "this brings about", "owing to", "on account of",
        "thanks to", "resulting from",
    ]),
    ("contrast", &[
        "however", "nevertheless", "nonetheless", "on the other hand", "in contrast", "while",
        "whereas", "although", "even though", "despite this", "but", "yet", "still", "conversely",
        "on the contrary", "rather", "instead", "alternatively", "otherwise", "in opposition",
        "by contrast", "contrarily", "notwithstanding", "regardless", "all the same", "even so",
        "be that as it may", "in any case", "at any rate",
    ]),
    ("sequence", &[
        "first", "second", "third", "next", "then", "after that", "finally", "lastly", "initially",
        "subsequently", "meanwhile", "to begin with", "to start with", "in the beginning",
        "at first", "at the outset", "primarily", "secondly", "thirdly", "following this",
        "afterward", "later", "later on", "in the meantime", "simultaneously", "concurrently",
        "at the same time", "in conclusion", "to conclude", "ultimately", "in the end",
        "to summarize", "in summary",
    ]),
    ("emphasis", &[
        "indeed", "certainly", "surely", "undoubtedly", "without doubt", "definitely", "absolutely",
        "positively", "unquestionably", "indubitably", "of course", "naturally", "obviously",
        "clearly", "evidently", "manifestly", "undeniably", "admittedly", "granted", "to be sure",
        "in fact", "as a matter of fact", "notably", "significantly",
    ]),
    ("summary", &[
        "in summary", "in conclusion", "to summarize", "to conclude", "in short", "in brief",
        "briefly", "to sum up", "on the whole", "overall", "all in all", "in essence",
        "essentially", "basically", "fundamentally", "in the final analysis", "after all",
        "ultimately", "in the end", "when all is said and done", "the bottom line is",
    ]),
    ("comparison", &[
        "similarly", "likewise", "in the same way", "equally", "just as", "comparable to",
        "in comparison", "by the same token", "correspondingly", "in like manner",
        "along the same lines", "in similar fashion", "analogously", "by analogy", "just like",
        "much like", "as with",
    ]),
    ("concession", &[
        "although", "though", "even though", "while", "whereas", "despite", "in spite of",
        "regardless of", "notwithstanding", "admittedly", "granted", "even if", "be that as it may",
        "nevertheless", "nonetheless", "however", "yet", "still", "all the same",
    ]),
    ("condition", &[
        "if", "unless", "provided that", "assuming that", "supposing that", "in case",
        "in the event that", "on condition that", "given that", "as long as", "so long as",
        "only if", "even if", "whether or not", "should", "were", "had", "otherwise", "or else",
    ]),
    ("time", &[
        "when", "while", "as", "after", "before", "until", "since", "during", "meanwhile",
        "simultaneously", "at the same time", "concurrently", "previously", "formerly", "earlier",
        "later", "afterward", "subsequently", "eventually", "finally", "recently", "lately",
        "nowadays", "currently", "presently", "immediately",
    ]),
];

/// The score in `[0, 1]` of the transitions in a text: 0 without any, otherwise 0.4 for the first
/// category of phrases and 0.05 for each further category.
///
/// A phrase counts wherever it occurs, even inside longer words: `also` contains `so`.
pub(super) fn transition_score(text: &str) -> f64 {
    match categories_in(text) {
        0 => 0.0,
        categories => (0.4 + 0.05 * (categories - 1) as f64).min(1.0),
    }
}

/// The number of categories with at least one phrase in the lower-cased text.
fn categories_in(text: &str) -> usize {
    let text = text.to_lowercase();
    CATEGORIES
        .iter()
        .filter(|(_, phrases)| phrases.iter().any(|phrase| text.contains(phrase)))
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_phrases_are_the_reference_phrases() {
        let fixture: serde_json::Value =
            serde_json::from_str(include_str!("../../fixtures/writing-words.json")).unwrap();
        let categories: serde_json::Map<String, serde_json::Value> = CATEGORIES
            .iter()
            .map(|(name, phrases)| ((*name).to_owned(), serde_json::json!(phrases)))
            .collect();
        assert_eq!(
            serde_json::Value::Object(categories),
            fixture["transitions"]
        );
    }

    #[test]
    fn categories_count_once_and_phrases_count_inside_words() {
        let rows = [
            ("", 0),
            ("Rivers run deep", 0),
            ("MOREOVER", 1),
            ("furthermore and moreover", 1),
            ("namely", 1),
            ("to sum up", 1),
            ("namely, to sum up", 2),
            ("soap", 1),
            ("above\nall", 0),
            ("as", 1),
        ];
        for (text, expected) in rows {
            assert_eq!(categories_in(text), expected, "{text:?}");
        }
    }

    #[test]
    fn the_score_rises_by_category() {
        let all: Vec<&str> = CATEGORIES
            .iter()
            .flat_map(|(_, phrases)| phrases.iter().copied())
            .collect();
        let rows = [
            ("", 0.0),
            ("namely", 0.4),
            ("namely, to sum up", 0.45),
            (&all.join(" "), 0.95),
        ];
        for (text, expected) in rows {
            assert!(
                (transition_score(text) - expected).abs() < 1e-12,
                "{text:?}"
            );
        }
    }
}
