//! The settings of a recipe by their paths, read from its text.
//!
//! A recipe is RON: sections in round brackets, and choices such as `Tldr`, `Magrpo(samples: 8)` or
//! `Linear(last: 0.0)`. Every setting of the environment and of the algorithm counts separately; any
//! other choice is one setting as a whole. A map is both: each of its keys is a setting, and so is the whole
//! map, since any key is allowed in it. This module knows nothing else about the contents of recipes.

use std::fmt;

use indexmap::IndexMap;
use ron::value::RawValue;
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};

/// The values of a recipe as RON on one line, by their paths, such as `updates.learning_rate`.
pub type FlatSettings = IndexMap<String, String>;

/// The sections whose values are choices with settings.
const CHOICES: [&str; 2] = ["environment", "algorithm"];

/// RON as recipes use it: `top_k: 50` means the same as `top_k: Some(50)`.
pub fn ron_options() -> ron::Options {
    ron::Options::default().with_default_extension(ron::extensions::Extensions::IMPLICIT_SOME)
}

/// Every value of a recipe's text by its path. Sections, the environment and the algorithm are split into
/// their settings; other choices stay whole.
///
/// `environment: SingleAgent(Coding(turns: 2))` has the settings `environment`, which is
/// `SingleAgent(Coding)`, and `environment.turns`. A map is listed key by key, and after its keys as a whole.
pub fn settings(recipe: &str) -> FlatSettings {
    let mut settings = FlatSettings::new();
    collect(recipe, "", &mut settings);
    settings
}

/// The longest path whose settings are listed one by one, in bytes. The text is untrusted, and every setting
/// in a map repeats the path of the map.
const MAX_PATH_BYTES: usize = 256;

fn collect(text: &str, path: &str, settings: &mut FlatSettings) {
    let text = trimmed(text);
    if path.len() > MAX_PATH_BYTES {
        settings.insert(path.to_owned(), value(text));
        return;
    }
    if let Some(entries) = entries(text) {
        for (key, content) in entries {
            collect(&content, &format!("{path}.{key}"), settings);
        }
        settings.insert(path.to_owned(), value(text));
        return;
    }
    let is_choice = CHOICES.contains(&path);
    let is_section = text.starts_with('(') || is_choice;
    let Some(choice) = is_section.then(|| Choice::read(text)).flatten() else {
        settings.insert(path.to_owned(), value(text));
        return;
    };
    if is_choice && !choice.name.is_empty() {
        settings.insert(path.to_owned(), choice.name);
    }
    for (key, value) in choice.fields {
        let path = match path {
            "" => key,
            path => format!("{path}.{key}"),
        };
        collect(&value, &path, settings);
    }
}

/// Whether a path is that of a section or of something in the section.
pub fn is_below(path: &str, section: &str) -> bool {
    let rest = path.strip_prefix(section);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// A value on one line. Numbers with a point or an exponent are rewritten as RON writes them, so that equal
/// numbers are equal texts.
pub(crate) fn value(text: &str) -> String {
    let value = compact(text);
    let is_real = value.contains(['.', 'e', 'E']);
    let number: Option<f64> = value.parse().ok().filter(|_| is_real);
    let written = number.and_then(|number| ron::ser::to_string(&number).ok());
    written.unwrap_or(value)
}

/// A choice or a section: `Name(key: value, …)`, `Outer(Name(key: value, …))`, `(key: value, …)` or `Name`.
struct Choice {
    /// The names alone, such as `Outer(Name)`; empty for a plain section.
    name: String,
    fields: Vec<(String, String)>,
}

impl Choice {
    fn read(text: &str) -> Option<Self> {
        let (name, _) = text.split_once('(').unwrap_or((text, ""));
        let name = trimmed(name).to_owned();
        if let Some(fields) = fields(text) {
            return Some(Self { name, fields });
        }
        if let Some((outer, inner)) = nested_choice(text) {
            let inner = Self::read(inner)?;
            return Some(Self {
                name: format!("{outer}({})", inner.name),
                ..inner
            });
        }
        is_name(&name).then(|| Self {
            name: match compact(text) {
                text if text.ends_with("()") => name,
                text => text,
            },
            fields: Vec::new(),
        })
    }
}

/// The keys of a RON struct, each with the text of its value; `None` for anything else.
pub fn fields(text: &str) -> Option<Vec<(String, String)>> {
    // A map could be read as a struct too, but its keys are chosen by the user.
    if trimmed(text).starts_with('{') {
        return None;
    }
    ron_options()
        .from_str(text)
        .ok()
        .map(|Fields(fields)| fields)
}

/// The keys of a RON map whose keys are texts, each with the text of its value; `None` for anything else.
pub fn entries(text: &str) -> Option<Vec<(String, String)>> {
    if !trimmed(text).starts_with('{') {
        return None;
    }
    ron_options()
        .from_str(text)
        .ok()
        .map(|Fields(fields)| fields)
}

/// Splits a choice that contains nothing but another choice with fields: `SingleAgent(Coding(turns: 2))` into
/// `SingleAgent` and `Coding(turns: 2)`. `None` for anything else.
pub fn nested_choice(text: &str) -> Option<(&str, &str)> {
    let (outer, rest) = text.split_once('(')?;
    let inner = trimmed(rest.trim_end().strip_suffix(')')?);
    let inner = inner.strip_suffix(',').unwrap_or(inner);
    let (name, _) = inner.split_once('(')?;
    (is_name(outer) && is_name(name)).then_some((outer, inner))
}

fn is_name(text: &str) -> bool {
    let is_part = |character: char| character.is_alphanumeric() || character == '_';
    !text.is_empty() && text.chars().all(is_part)
}

/// A text without surrounding white space and without leading comments.
fn trimmed(text: &str) -> &str {
    let mut rest = text.trim();
    loop {
        let after_comment = match (rest.strip_prefix("//"), rest.strip_prefix("/*")) {
            (Some(comment), _) => comment.split_once('\n').map(|(_, after)| after),
            (_, Some(comment)) => comment.split_once("*/").map(|(_, after)| after),
            _ => return rest,
        };
        rest = after_comment.unwrap_or_default().trim();
    }
}

/// RON without white space, comments and trailing commas, as if it were written on one line. Quoted text
/// stays as it is.
fn compact(text: &str) -> String {
    let mut compact = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        let length = match next {
            '/' if rest.starts_with("//") => {
                rest = rest.split_once('\n').map_or("", |(_, after)| after);
                continue;
            }
            '/' if rest.starts_with("/*") => {
                rest = rest.split_once("*/").map_or("", |(_, after)| after);
                continue;
            }
            '"' | '\'' => quoted(rest, next),
            'r' if !compact.ends_with(char::is_alphanumeric) => raw(rest).unwrap_or(1),
            _ => next.len_utf8(),
        };
        let (token, after) = rest.split_at(length);
        if matches!(next, ')' | ']' | '}') && compact.ends_with(',') {
            compact.pop();
        }
        if !next.is_whitespace() {
            compact += token;
        }
        rest = after;
    }
    compact
}

/// The length of the quoted text at the start of a text.
fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, character) in text.char_indices().skip(1) {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            closing if closing == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// The length of the raw text, such as `r#"…"#`, at the start of a text; `None` if there is none. A raw text
/// that does not end extends to the end of the whole text, so that it is searched only once.
fn raw(text: &str) -> Option<usize> {
    let hashes = text[1..]
        .chars()
        .take_while(|character| *character == '#')
        .count();
    let begin = 1 + hashes;
    let inner = text[begin..].strip_prefix('"')?;
    let end = inner.find(&format!("\"{}", "#".repeat(hashes)));
    Some(end.map_or(text.len(), |end| begin + 1 + end + 1 + hashes))
}

/// The keys of a RON struct or map, each with the text of its value.
struct Fields(Vec<(String, String)>);

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(FieldsVisitor)
    }
}

struct FieldsVisitor;

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = Fields;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a struct with named fields or a map of texts")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut fields = Vec::new();
        while let Some((key, value)) = map.next_entry::<String, Box<RawValue>>()? {
            fields.push((key, value.get_ron().to_owned()));
        }
        Ok(Fields(fields))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &[(&str, &str)]) {
        let found = settings(text);
        let found: Vec<(&str, &str)> = found
            .iter()
            .map(|(path, value)| (path.as_str(), value.as_str()))
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn sections_are_split_and_choices_are_not() {
        check(
            r#"// A comment.
            (
                seed: 1, // Another one.
                team: Each(["a", "b // no comment"]),
                sampling: (
                    temperature: 0.7,
                    top_k: None,
                ),
                updates: (
                    schedule: Linear(
                        last: 0.5,
                    ),
                    learning_rates: {"a": 0.5,},
                ),
            )"#,
            &[
                ("seed", "1"),
                ("team", r#"Each(["a","b // no comment"])"#),
                ("sampling.temperature", "0.7"),
                ("sampling.top_k", "None"),
                ("updates.schedule", "Linear(last:0.5)"),
                ("updates.learning_rates.a", "0.5"),
                ("updates.learning_rates", r#"{"a":0.5}"#),
            ],
        );
    }

    #[test]
    fn environment_and_algorithm_are_split_into_names_and_settings() {
        let rows: &[(&str, &[(&str, &str)])] = &[
            ("(environment: Tldr)", &[("environment", "Tldr")]),
            ("(environment: Tldr())", &[("environment", "Tldr")]),
            (
                "(environment: SingleAgent(Tldr))",
                &[("environment", "SingleAgent(Tldr)")],
            ),
            (
                "(environment: SingleAgent(Tldr()))",
                &[("environment", "SingleAgent(Tldr)")],
            ),
            (
                "(environment: SingleAgent(Coding(settings: (turns: 2), sandbox: (workers: 1))))",
                &[
                    ("environment", "SingleAgent(Coding)"),
                    ("environment.settings.turns", "2"),
                    ("environment.sandbox.workers", "1"),
                ],
            ),
            (
                "(environment: SingleAgent(\n    Coding(\n        turns: 2,\n    ),\n))",
                &[
                    ("environment", "SingleAgent(Coding)"),
                    ("environment.turns", "2"),
                ],
            ),
            (
                "(algorithm: Number_Plate(samples: 8, kl: Loss(coefficient: 0.1)))",
                &[
                    ("algorithm", "Number_Plate"),
                    ("algorithm.samples", "8"),
                    ("algorithm.kl", "Loss(coefficient:0.1)"),
                ],
            ),
            ("(algorithm: (samples: 8))", &[("algorithm.samples", "8")]),
            (
                r#"(environment: Process(command: ["python3", "plate.py"]))"#,
                &[
                    ("environment", "Process"),
                    ("environment.command", r#"["python3","plate.py"]"#),
                ],
            ),
            (
                r#"(environment: Process(settings: {"bonus": 1, "word": {"length": 3}}))"#,
                &[
                    ("environment", "Process"),
                    ("environment.settings.bonus", "1"),
                    ("environment.settings.word.length", "3"),
                    ("environment.settings.word", r#"{"length":3}"#),
                    ("environment.settings", r#"{"bonus":1,"word":{"length":3}}"#),
                ],
            ),
            (
                "(environment: Process(settings: {}))",
                &[("environment", "Process"), ("environment.settings", "{}")],
            ),
        ];
        for (text, expected) in rows {
            check(text, expected);
        }
    }

    /// Each of these texts once took hours or all memory.
    #[test]
    fn hostile_texts_take_linear_time_and_memory() {
        let open = "r#\"".repeat(1 << 20);
        assert_eq!(value(&open), open);
        let key = "k".repeat(1 << 16);
        let inner: Vec<String> = (0..1 << 16)
            .map(|number| format!("\"{number}\":1"))
            .collect();
        let found = settings(&format!("(a:{{\"{key}\":{{{}}}}})", inner.join(",")));
        assert_eq!(found.len(), 2);
    }

    #[test]
    fn equal_numbers_are_equal_texts() {
        for [one, other] in [["1e-3", "0.001"], ["0.50", "0.5"], ["1.0", "1e0"]] {
            assert_eq!(value(one), value(other));
        }
        for same in ["18446744073709551615", "None", "\"1e-3\"", "inf"] {
            assert_eq!(value(same), same);
        }
    }

    #[test]
    fn only_choices_that_contain_a_choice_are_nested() {
        let rows = [
            (
                "SingleAgent(Coding(turns: 2))",
                Some(("SingleAgent", "Coding(turns: 2)")),
            ),
            ("Same(Cuda(1))", Some(("Same", "Cuda(1)"))),
            ("Copies(\"a\")", None),
            ("Tldr", None),
        ];
        for (text, expected) in rows {
            assert_eq!(nested_choice(text), expected, "{text}");
        }
    }

    #[test]
    fn structs_have_fields_and_maps_have_entries() {
        let one = || Some(vec![("a".to_owned(), "1".to_owned())]);
        for (text, of_struct, of_map) in [
            ("(a: 1)", one(), None),
            ("{\"a\": 1}", None, one()),
            ("{}", None, Some(Vec::new())),
            ("{1: 2}", None, None),
            ("[1]", None, None),
        ] {
            assert_eq!(fields(text), of_struct, "{text}");
            assert_eq!(entries(text), of_map, "{text}");
        }
    }

    #[derive(Clone, Debug, serde::Serialize)]
    enum Anything {
        Unit,
        Named { text: String, number: Option<i32> },
        Many(Vec<Anything>),
    }

    fn anything() -> impl Strategy<Value = Anything> {
        let text = "[a-z \\\\\"/*#,)\n']{0,12}";
        let leaf = prop_oneof![
            Just(Anything::Unit),
            (text, proptest::option::of(any::<i32>()))
                .prop_map(|(text, number)| Anything::Named { text, number }),
        ];
        leaf.prop_recursive(3, 12, 3, |inner| {
            proptest::collection::vec(inner, 0..3).prop_map(Anything::Many)
        })
    }

    proptest! {
        /// However a value was laid out, it is the same on one line.
        #[test]
        fn layout_makes_no_difference(value in anything()) {
            let layout = ron::ser::PrettyConfig::new().struct_names(false);
            let pretty = ron::ser::to_string_pretty(&value, layout).unwrap();
            prop_assert_eq!(compact(&pretty), ron::ser::to_string(&value).unwrap());
        }
    }
}
