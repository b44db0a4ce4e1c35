//! What is wrong with a recipe, in words that help: the place, and the nearest name that exists.

use anyhow::{Error, anyhow};
use ron::error::{Error as Code, SpannedError};

/// An error in a file, with its line and column.
pub(super) fn in_file(error: &SpannedError) -> Error {
    // RON stops behind a name that it does not know and before anything else that is wrong.
    let place = match error.code {
        Code::NoSuchStructField { .. } | Code::NoSuchEnumVariant { .. } => error.span.start,
        _ => error.span.end,
    };
    anyhow!(
        "line {}, column {}: {}",
        place.line,
        place.col,
        reason(&error.code)
    )
}

/// What is wrong, without the place.
pub(super) fn reason(code: &Code) -> String {
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
            format!("found {found}, but it must be {expected}")
        }
        Code::ExpectedString => {
            "expected a text in double quotes, such as \"smollm2-135m\"".to_owned()
        }
        other => format!("not valid RON: {other}"),
    }
}

/// The nearest of the known names, and all of them.
pub(super) fn suggest<S: AsRef<str>>(given: &str, known: &[S]) -> String {
    let nearest = known
        .iter()
        .map(AsRef::as_ref)
        .min_by_key(|name| strsim::damerau_levenshtein(given, name));
    match nearest {
        Some(nearest) => {
            let all: Vec<&str> = known.iter().map(AsRef::as_ref).collect();
            format!("did you mean `{nearest}`? Known here: {}", all.join(", "))
        }
        None => "there is nothing to set here".to_owned(),
    }
}
