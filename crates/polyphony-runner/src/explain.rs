//! What is wrong with a recipe, in words that help: the place, and the nearest name that exists.

use anyhow::{Error, anyhow};
use ron::error::{Error as Code, Position, SpannedError};
use thiserror::Error as ThisError;

/// Names less alike than this (1 is equal) are not worth suggesting.
const LEAST_LIKENESS: f64 = 0.4;

/// An error in a file, with its line and column.
pub(crate) fn in_file(error: &SpannedError) -> Error {
    at(place(error), &reason(&error.code))
}

fn at(place: Position, reason: &str) -> Error {
    anyhow!("line {}, column {}: {reason}", place.line, place.col)
}

/// RON stops behind a name that it does not know and before anything else that is wrong.
fn place(error: &SpannedError) -> Position {
    match error.code {
        Code::NoSuchStructField { .. } | Code::NoSuchEnumVariant { .. } => error.span.start,
        _ => error.span.end,
    }
}

/// The settings of something that a recipe names cannot be read.
#[derive(Debug, ThisError)]
#[error("{reason}")]
pub(crate) struct SettingsError {
    /// The settings as they were given.
    given: String,
    /// Where in them, counted from 1.
    place: Position,
    reason: String,
}

impl SettingsError {
    pub(crate) fn new(given: &str, error: &SpannedError) -> Self {
        Self {
            given: given.to_owned(),
            place: place(error),
            reason: reason(&error.code),
        }
    }

    /// The settings of `name` have a key that it does not know.
    pub(crate) fn unknown_key(given: &str, name: &str, key: &str, known: &[&str]) -> Self {
        let before = given.find(key).map_or(given, |start| &given[..start]);
        Self {
            given: given.to_owned(),
            place: end_of(before),
            reason: format!("there is no key `{key}` in {name}; {}", suggest(key, known)),
        }
    }
}

/// A recipe names something that this program has not registered.
#[derive(Debug, ThisError)]
#[error("{reason}")]
pub(crate) struct UnknownName {
    name: String,
    reason: String,
}

impl UnknownName {
    /// `what` is the kind of thing, such as `environment`, and `known` are the names that there are.
    pub(crate) fn new(what: &str, name: &str, known: &[&str]) -> Self {
        let help = match known {
            [] => "nor any other: register it".to_owned(),
            known => suggest(name, known),
        };
        let separator = if known.is_empty() { ',' } else { ';' };
        Self {
            name: name.to_owned(),
            reason: format!("this program has no {what} `{name}`{separator} {help}"),
        }
    }

    /// Where the name stands in a text, if it does.
    fn place(&self, text: &str) -> Option<Position> {
        let start = text
            .find(&format!(": {}", self.name))
            .map(|start| start + 2);
        let start = start.or_else(|| text.find(&self.name))?;
        Some(end_of(&text[..start]))
    }
}

/// Where a text ends, as line and column counted from 1.
fn end_of(text: &str) -> Position {
    let last = text.rsplit('\n').next().unwrap_or_default();
    Position {
        line: text.matches('\n').count() + 1,
        col: last.chars().count() + 1,
    }
}

/// The error of settings that stand in a file, with its line and column there.
pub(crate) fn settings_in_file(error: Error, text: &str) -> Error {
    if let Some(unknown) = error.downcast_ref::<UnknownName>() {
        return match unknown.place(text) {
            Some(place) => at(place, &unknown.reason),
            None => error,
        };
    }
    let Some(wrong) = error.downcast_ref::<SettingsError>() else {
        return error;
    };
    let Some(start) = text.find(&wrong.given) else {
        return error;
    };
    let start = end_of(&text[..start]);
    let place = match wrong.place.line {
        1 => Position {
            line: start.line,
            col: start.col + wrong.place.col - 1,
        },
        line => Position {
            line: start.line + line - 1,
            col: wrong.place.col,
        },
    };
    at(place, &wrong.reason)
}

/// What is wrong, without the place.
pub(crate) fn reason(code: &Code) -> String {
    match code {
        Code::NoSuchStructField {
            expected,
            found,
            outer,
        } => {
            let place = outer
                .as_deref()
                .map(|outer| format!(" in {outer}"))
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
        Code::InvalidValueForType { expected, found } => {
            let expected = expected.replace("a nonzero usize", "a whole number of at least 1");
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
             Linear(last: 0.0); docs/recipes.md has all"
                .to_owned()
        }
        Code::ExpectedStructLike | Code::ExpectedNamedStructLike(_) => {
            "expected round brackets with `key: value` pairs, whose keys docs/recipes.md has"
                .to_owned()
        }
        Code::ExpectedDifferentStructName { .. } => {
            "expected another pair of round brackets here, as in ExpertEdits((…))".to_owned()
        }
        // Also what comes of a number with a point where whole numbers are meant.
        Code::ExpectedComma => {
            "expected a comma or a closing bracket here, or a whole number before; texts need double quotes"
                .to_owned()
        }
        other => format!("not valid RON: {other}"),
    }
}

/// The nearest of the known names if it is near at all, and all of them.
pub(crate) fn suggest<S: AsRef<str>>(given: &str, known: &[S]) -> String {
    let all: Vec<&str> = known.iter().map(AsRef::as_ref).collect();
    if all.is_empty() {
        return "there is nothing to set here".to_owned();
    }
    let names = all.join(", ");
    match nearest(given, &all) {
        Some(name) => format!("did you mean `{name}`? Known here: {names}"),
        None => format!("known here: {names}"),
    }
}

/// The most alike of the known names, if it is alike at all.
pub(crate) fn nearest<'a>(given: &str, known: &[&'a str]) -> Option<&'a str> {
    let given = given.to_lowercase();
    let likeness =
        |name: &&str| strsim::normalized_damerau_levenshtein(&given, &name.to_lowercase());
    known
        .iter()
        .copied()
        .filter(|name| likeness(name) >= LEAST_LIKENESS)
        .max_by(|a, b| likeness(a).total_cmp(&likeness(b)))
}
