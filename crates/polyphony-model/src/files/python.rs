//! Python's methods and filters in templates, where minijinja and its `pycompat` behave differently.

use std::io::{self, Write};

use minijinja::value::Kwargs;
use minijinja::{Error, ErrorKind, State, Value};
use minijinja_contrib::pycompat;
use serde::Serialize as _;
use serde_json::Serializer;
use serde_json::ser::{Formatter, PrettyFormatter};

use super::template::{Size, measured, pay, refused};

/// The most digits of a field width in `format`.
const MAX_WIDTH_DIGITS: usize = 3;

/// The most spaces per level of indented JSON.
const MAX_JSON_INDENT: usize = 32;

/// Calls a Python method of a text, list or map that Jinja's values lack.
pub(super) fn method(
    state: &mut State,
    value: &Value,
    name: &str,
    arguments: &[Value],
) -> Result<Value, Error> {
    for value in arguments.iter().chain([value]) {
        pay(state, Size::of(value)?.fuel())?;
    }
    match (value.as_str(), name, arguments) {
        (Some(text), "strip", []) => Ok(text.trim_matches(is_space).into()),
        (Some(text), "lstrip", []) => Ok(text.trim_start_matches(is_space).into()),
        (Some(text), "rstrip", []) => Ok(text.trim_end_matches(is_space).into()),
        (Some(text), "split", []) => {
            let words = || text.split(is_space).filter(|word| !word.is_empty());
            pay(state, words().count())?;
            Ok(words().collect())
        }
        _ => {
            if let Some(text) = value.as_str() {
                pay_for_text(state, text, name, arguments)?;
            }
            let result = pycompat::unknown_method_callback(state, value, name, arguments)?;
            measured(state, result)
        }
    }
}

/// Pays for the result of a text method in advance, if it can be much larger than the arguments.
fn pay_for_text(state: &State, text: &str, name: &str, arguments: &[Value]) -> Result<(), Error> {
    let mut texts = arguments.iter().map_while(Value::as_str);
    match (name, texts.next(), texts.next()) {
        ("strip" | "lstrip" | "rstrip", Some(characters), _) => {
            pay_for_trim(state, text, characters)
        }
        ("split", Some(separator), _) => pay(state, text.matches(separator).count()),
        ("splitlines", ..) => pay(state, text.matches('\n').count()),
        ("replace", Some(old), Some(new)) => pay(
            state,
            text.matches(old).count().saturating_mul(new.len()) / 64,
        ),
        ("join", ..) => {
            let values = arguments.first().and_then(Value::len).unwrap_or(0);
            pay(state, values.saturating_mul(text.len()) / 64)
        }
        ("format", ..) => {
            let digits = text.split(|character: char| !character.is_ascii_digit());
            if digits.map(str::len).max() > Some(MAX_WIDTH_DIGITS) {
                let reason =
                    format!("`format` has a number of more than {MAX_WIDTH_DIGITS} digits");
                return Err(refused(reason));
            }
            let widest = 10_usize.pow(MAX_WIDTH_DIGITS as u32);
            pay(state, text.matches('{').count().saturating_mul(widest) / 64)
        }
        _ => Ok(()),
    }
}

/// Pays for trimming, which may compare each character of `characters` with each one of the text.
fn pay_for_trim(state: &State, text: &str, characters: &str) -> Result<(), Error> {
    pay(state, text.len().saturating_mul(characters.len()) / 64)
}

/// The filter `trim`.
pub(super) fn trim(state: &State, value: &Value, characters: Option<&str>) -> Result<Value, Error> {
    let trim = |text: &str| -> Result<Value, Error> {
        let Some(characters) = characters else {
            return Ok(text.trim_matches(is_space).into());
        };
        pay_for_trim(state, text, characters)?;
        let trimmed = text.trim_matches(|character| characters.contains(character));
        Ok(trimmed.into())
    };
    if let Some(text) = value.as_str() {
        return trim(text);
    }
    pay(state, Size::of(value)?.fuel())?;
    trim(&value.to_string())
}

/// Whether a character is white space in Python: Unicode's white space and four more separators.
fn is_space(character: char) -> bool {
    character.is_whitespace() || matches!(character, '\u{1c}'..='\u{1f}')
}

/// The filter `tojson` as transformers defines it: Python's `json.dumps`, which, unlike Jinja's
/// filter, does not escape for HTML.
///
/// # Errors
/// If an argument other than `indent` and `ensure_ascii=false` is given, or if the value is too large.
pub(super) fn tojson(state: &State, value: &Value, options: Kwargs) -> Result<String, Error> {
    let size = Size::of(value)?;
    pay(state, size.fuel())?;
    let indent: Option<usize> = options.get("indent")?;
    if options.get::<Option<bool>>("ensure_ascii")? == Some(true) {
        let reason = "tojson with ensure_ascii=true is not supported";
        return Err(Error::new(ErrorKind::InvalidOperation, reason));
    }
    options.assert_all_used()?;
    match indent {
        Some(width) => {
            if width > MAX_JSON_INDENT {
                let reason =
                    format!("tojson has an indent of {width}; the most is {MAX_JSON_INDENT}");
                return Err(refused(reason));
            }
            pay(state, size.parts * size.depth * width / 64)?;
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

/// Formats JSON on one line, with a space after commas and colons.
struct OneLine;

impl Formatter for OneLine {
    fn begin_array_value<W: ?Sized + Write>(
        &mut self,
        output: &mut W,
        first: bool,
    ) -> io::Result<()> {
        separate(output, first)
    }

    fn begin_object_key<W: ?Sized + Write>(
        &mut self,
        output: &mut W,
        first: bool,
    ) -> io::Result<()> {
        separate(output, first)
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, output: &mut W) -> io::Result<()> {
        output.write_all(b": ")
    }
}

fn separate<W: ?Sized + Write>(output: &mut W, first: bool) -> io::Result<()> {
    if first {
        Ok(())
    } else {
        output.write_all(b", ")
    }
}
