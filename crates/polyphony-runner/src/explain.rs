//! Explains what is wrong with a recipe: names the place, and the nearest name that exists.

use anyhow::{Error, anyhow};
use polyphony_report::ron_options;
use ron::{
    error::{Error as Code, Position, SpannedError},
    value::RawValue,
};
use serde::Deserialize;
use thiserror::Error as ThisError;

use crate::choice;

/// Names less similar than this (1 means equal) are not worth suggesting.
const LEAST_SIMILARITY: f64 = 0.4;

/// Names in recipes that have changed: old, new.
const RENAMED: [(&str, &str); 4] = [
    ("max_gradient_norm", "max_grad_norm"),
    ("max_nonfinite", "max_skipped_updates"),
    ("Solo", "SingleAgent"),
    ("rollout_weights", "precision"),
];

/// An error in the text of a file, with its line and column.
pub(crate) fn in_file(error: &SpannedError, text: &str) -> Error {
    at(place(error), &reason(error, text))
}

fn at(place: Position, reason: &str) -> Error {
    anyhow!("line {}, column {}: {reason}", place.line, place.col)
}

/// The place of the mistake. RON reads an unknown name to its end, so the place is where the name starts. The
/// place of any other mistake is where RON stopped.
fn place(error: &SpannedError) -> Position {
    match error.code {
        Code::NoSuchStructField { .. } | Code::NoSuchEnumVariant { .. } => error.span.start,
        _ => error.span.end,
    }
}

/// Something that a recipe names is not registered, or its settings cannot be read.
#[derive(Debug, ThisError)]
#[error("{reason}")]
pub(crate) struct WrongChoice {
    /// The name as it was given.
    name: String,
    /// The place of the mistake within the settings, counted from 1; `None` if the name itself is wrong.
    place: Option<Position>,
    reason: String,
}

impl WrongChoice {
    /// The program has not registered `name`. `what` is the kind of thing, such as `environment`, and
    /// `known` are the names of this kind that are registered.
    pub(crate) fn unknown_name(what: &str, name: &str, known: &[&str]) -> Self {
        let help = match known {
            [] => ", nor any other: register it".to_owned(),
            known => format!("; {}", suggest(name, known)),
        };
        Self {
            name: name.to_owned(),
            place: None,
            reason: format!("this program has no {what} `{name}`{help}"),
        }
    }

    /// The settings of `name` cannot be read. `text` is their RON text.
    pub(crate) fn settings(name: &str, error: &SpannedError, text: &str) -> Self {
        Self {
            name: name.to_owned(),
            place: Some(place(error)),
            reason: reason(error, text),
        }
    }

    /// The settings of `name` contain `key`, which is not one of the `known` keys.
    pub(crate) fn unknown_key(name: &str, key: &str, place: Position, known: &[&str]) -> Self {
        Self {
            name: name.to_owned(),
            place: Some(place),
            reason: format!("there is no key `{key}` in {name}; {}", suggest(key, known)),
        }
    }

    /// The place of the mistake in a recipe's text, if the choice is the value of `key` there.
    fn place_in(&self, text: &str, key: &str) -> Option<Position> {
        let (name, settings) = choice::find(value_of(text, key)?, &self.name)?;
        // `name` and `settings` are slices of `text`.
        let start = |part: &str| end_of(&text[..part.as_ptr().addr() - text.as_ptr().addr()]);
        let Some(place) = self.place.filter(|_| !settings.is_empty()) else {
            return Some(start(name));
        };
        let start = start(settings);
        Some(match place.line {
            1 => Position {
                line: start.line,
                col: start.col + place.col - 1,
            },
            line => Position {
                line: start.line + line - 1,
                col: place.col,
            },
        })
    }
}

/// The value of a key that names something registered, as a slice of the recipe's text.
fn value_of<'t>(text: &'t str, key: &str) -> Option<&'t str> {
    #[derive(Deserialize)]
    struct Choices<'t> {
        #[serde(borrow)]
        environment: &'t RawValue,
        #[serde(borrow, default)]
        train: Option<&'t RawValue>,
        #[serde(borrow, default)]
        held_out: Option<&'t RawValue>,
        #[serde(borrow, default)]
        algorithm: Option<&'t RawValue>,
    }
    let choices: Choices<'t> = ron_options().from_str(text).ok()?;
    let value = match key {
        "environment" => Some(choices.environment),
        "train" => choices.train,
        "held_out" => choices.held_out,
        "algorithm" => choices.algorithm,
        _ => None,
    };
    value.map(RawValue::get_ron)
}

/// The end of a text, as line and column counted from 1.
fn end_of(text: &str) -> Position {
    let last = text.rsplit('\n').next().unwrap_or_default();
    Position {
        line: text.matches('\n').count() + 1,
        col: last.chars().count() + 1,
    }
}

/// Adds line and column to an error about the choice that is the value of `key` in a file.
pub(crate) fn choice_in_file(error: Error, text: &str, key: &str) -> Error {
    let Some(wrong) = error.downcast_ref::<WrongChoice>() else {
        return error;
    };
    match wrong.place_in(text, key) {
        Some(place) => at(place, &wrong.reason),
        None => error,
    }
}

/// Whether RON stopped at the decimal point of a number that must be whole.
fn is_at_decimal_point(error: &SpannedError, text: &str) -> bool {
    let Position { line, col } = error.span.end;
    let Some(line) = text.lines().nth(line - 1) else {
        return false;
    };
    let before: String = line.chars().take(col - 1).collect();
    let is_part = |character: char| character.is_alphanumeric() || character == '_';
    let word = before
        .rsplit(|character| !is_part(character))
        .next()
        .unwrap_or_default();
    let is_number = word.starts_with(|first: char| first.is_ascii_digit());
    is_number && line.chars().nth(col - 1) == Some('.')
}

/// The name that a struct of the program has in a recipe.
fn section(name: &str) -> &str {
    match name {
        "Updates" => "`updates`",
        "Sampling" => "`sampling`",
        "EvaluationConfig" => "`evaluation`",
        "Checkpoints" => "`checkpoints`",
        "Recipe" => "a recipe",
        other => other,
    }
}

/// What is wrong with the text, without the place.
pub(crate) fn reason(error: &SpannedError, text: &str) -> String {
    match &error.code {
        Code::NoSuchStructField {
            expected,
            found,
            outer,
        } => {
            let place = outer
                .as_deref()
                .map(|outer| format!(" in {}", section(outer)))
                .unwrap_or_default();
            format!(
                "there is no key `{found}`{place}; {}",
                suggest(found, expected)
            )
        }
        Code::NoSuchEnumVariant {
            expected,
            found,
            outer,
        } => {
            let place = outer
                .as_deref()
                .map(|outer| format!(" as {outer}"))
                .unwrap_or_default();
            format!(
                "there is no choice `{found}`{place}; {}",
                suggest(found, expected)
            )
        }
        Code::MissingStructField { field, .. } => format!("the key `{field}` is missing"),
        Code::DuplicateStructField { field, .. } => format!("the key `{field}` is given twice"),
        Code::InvalidValueForType { expected, .. } if expected.starts_with("a nonzero") => {
            "found 0, but it must be at least 1".to_owned()
        }
        Code::InvalidValueForType { expected, found } => {
            format!("found {found}, but it must be {expected}")
        }
        Code::ExpectedString => {
            "expected a text in double quotes, such as \"smollm2-135m\"".to_owned()
        }
        Code::ExpectedInteger | Code::InvalidIntegerDigit { .. } => {
            "expected a whole number".to_owned()
        }
        Code::ExpectedFloat => "expected a number".to_owned(),
        Code::ExpectedBoolean => "expected true or false".to_owned(),
        Code::IntegerOutOfBounds => {
            "expected a whole number that is neither below 0 nor too large".to_owned()
        }
        Code::ExpectedIdentifier | Code::SuggestRawIdentifier(_) | Code::InvalidIdentifier(_) => {
            "expected the name of a choice or of a key, without quotes, as in Copies(\"smollm2-135m\") and \
             Linear(last: 0.0); docs/recipes.md lists them"
                .to_owned()
        }
        Code::ExpectedStructLike | Code::ExpectedNamedStructLike(_) => {
            "expected round brackets with `key: value` pairs; docs/recipes.md lists the keys"
                .to_owned()
        }
        Code::ExpectedDifferentStructName { .. } => {
            "expected another pair of round brackets here, as in ExpertEdits((…))".to_owned()
        }
        Code::ExpectedComma if is_at_decimal_point(error, text) => {
            "expected a whole number".to_owned()
        }
        Code::ExpectedComma => {
            "expected a comma or a closing bracket here; texts need double quotes".to_owned()
        }
        other => format!("not valid RON: {other}"),
    }
}

/// All known names, and the nearest one if any is near.
pub(crate) fn suggest<S: AsRef<str>>(given: &str, known: &[S]) -> String {
    let all: Vec<&str> = known.iter().map(AsRef::as_ref).collect();
    if all.is_empty() {
        return "it has no settings".to_owned();
    }
    let names = all.join(", ");
    let mut renamed = RENAMED.iter();
    if let Some((_, new)) = renamed.find(|(old, new)| *old == given && all.contains(new)) {
        return format!("it is now called `{new}`. Known here: {names}");
    }
    match nearest(given, &all) {
        Some(name) => format!("did you mean `{name}`? Known here: {names}"),
        None => format!("known here: {names}"),
    }
}

/// The known name that is most similar, if any is similar enough.
pub(crate) fn nearest<'a>(given: &str, known: &[&'a str]) -> Option<&'a str> {
    let given = given.to_lowercase();
    let similarity =
        |name: &&str| strsim::normalized_damerau_levenshtein(&given, &name.to_lowercase());
    known
        .iter()
        .copied()
        .filter(|name| similarity(name) >= LEAST_SIMILARITY)
        .max_by(|a, b| similarity(a).total_cmp(&similarity(b)))
}
