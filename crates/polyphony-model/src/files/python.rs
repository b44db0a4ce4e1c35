//! Python in templates, where it differs from what minijinja and its `pycompat` make of it.

use std::io::{self, Write};

use minijinja::value::{Kwargs, StringInput};
use minijinja::{Error, ErrorKind, State, Value};
use minijinja_contrib::pycompat;
use serde::Serialize as _;
use serde_json::Serializer;
use serde_json::ser::{Formatter, PrettyFormatter};

/// A method call on a value that has no such method in Jinja: Python's, for text, lists and maps.
pub(super) fn method(
    state: &mut State,
    value: &Value,
    name: &str,
    arguments: &[Value],
) -> Result<Value, Error> {
    match (value.as_str(), name, arguments) {
        (Some(text), "strip", []) => Ok(text.trim_matches(is_space).into()),
        (Some(text), "lstrip", []) => Ok(text.trim_start_matches(is_space).into()),
        (Some(text), "rstrip", []) => Ok(text.trim_end_matches(is_space).into()),
        (Some(text), "split", []) => Ok(text
            .split(is_space)
            .filter(|word| !word.is_empty())
            .collect()),
        _ => pycompat::unknown_method_callback(state, value, name, arguments),
    }
}

/// The filter `trim`.
pub(super) fn trim(text: StringInput<'_>, characters: Option<&str>) -> String {
    let text = text.as_str();
    let trimmed = match characters {
        Some(characters) => text.trim_matches(|character| characters.contains(character)),
        None => text.trim_matches(is_space),
    };
    trimmed.to_owned()
}

/// Python's white space: Unicode's, and four separators that Unicode does not count.
fn is_space(character: char) -> bool {
    character.is_whitespace() || matches!(character, '\u{1c}'..='\u{1f}')
}

/// The filter `tojson` as transformers defines it: Python's `json.dumps`, which unlike Jinja's own
/// filter escapes nothing for HTML.
///
/// # Errors
/// If an argument other than `indent` and `ensure_ascii=false` is given.
pub(super) fn tojson(value: &Value, options: Kwargs) -> Result<String, Error> {
    let indent: Option<usize> = options.get("indent")?;
    if options.get::<Option<bool>>("ensure_ascii")? == Some(true) {
        let message = "tojson with ensure_ascii=true is not supported";
        return Err(Error::new(ErrorKind::InvalidOperation, message));
    }
    options.assert_all_used()?;
    match indent {
        Some(width) => {
            let indent = " ".repeat(width);
            json_with(value, PrettyFormatter::with_indent(indent.as_bytes()))
        }
        None => json_with(value, OneLine),
    }
}

fn json_with(value: &Value, formatter: impl Formatter) -> Result<String, Error> {
    let failed =
        |error: &dyn std::error::Error| Error::new(ErrorKind::BadSerialization, error.to_string());
    let mut json = Vec::new();
    let mut serializer = Serializer::with_formatter(&mut json, formatter);
    value
        .serialize(&mut serializer)
        .map_err(|error| failed(&error))?;
    String::from_utf8(json).map_err(|error| failed(&error))
}

/// JSON on one line with a blank after commas and colons.
struct OneLine;

impl Formatter for OneLine {
    fn begin_array_value<W: ?Sized + Write>(&mut self, to: &mut W, first: bool) -> io::Result<()> {
        separate(to, first)
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, to: &mut W, first: bool) -> io::Result<()> {
        separate(to, first)
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, to: &mut W) -> io::Result<()> {
        to.write_all(b": ")
    }
}

fn separate<W: ?Sized + Write>(to: &mut W, first: bool) -> io::Result<()> {
    if first { Ok(()) } else { to.write_all(b", ") }
}
