//! JSON lines: one object a line. Blank lines are skipped.

use std::{io::BufRead, path::Path};

use serde_json::Value as Json;

use super::{
    error::{DataSetError, Place},
    record::{Record, Value},
};

/// The mark that some editors put at the start of a UTF-8 file.
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// The records of a stream of lines; `path` names it in errors.
pub(super) fn records(
    lines: impl BufRead,
    path: &Path,
) -> impl Iterator<Item = Result<Record, DataSetError>> {
    lines
        .split(b'\n')
        .zip(1..)
        .filter_map(move |(bytes, line)| match bytes {
            Ok(bytes) => {
                let text = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&bytes);
                (!text.trim_ascii().is_empty()).then(|| record(text, path, line))
            }
            Err(source) => Some(Err(DataSetError::Read {
                path: path.to_owned(),
                line,
                source,
            })),
        })
}

fn record(text: &[u8], path: &Path, line: usize) -> Result<Record, DataSetError> {
    match serde_json::from_slice(text) {
        Ok(Json::Object(fields)) => Ok(Record {
            place: Place::Line(line),
            values: fields
                .into_iter()
                .map(|(name, json)| (name, value(json)))
                .collect(),
        }),
        Ok(other) => Err(DataSetError::NotAnObject {
            path: path.to_owned(),
            line,
            found: kind(&other),
        }),
        Err(error) => Err(DataSetError::BadJson {
            path: path.to_owned(),
            line,
            column: error.column(),
            reason: reason(&error),
        }),
    }
}

fn value(json: Json) -> Value {
    match json {
        Json::String(text) => Value::Text(text),
        Json::Number(number) => Value::Text(number.to_string()),
        Json::Bool(truth) => Value::Text(truth.to_string()),
        Json::Null | Json::Array(_) | Json::Object(_) => Value::Other(kind(&json)),
    }
}

fn kind(json: &Json) -> &'static str {
    match json {
        Json::Null => "null",
        Json::Bool(_) => "a truth value",
        Json::Number(_) => "a number",
        Json::String(_) => "text",
        Json::Array(_) => "a list",
        Json::Object(_) => "an object",
    }
}

/// The parser's message without its own position: it saw one line only and calls it line 1.
fn reason(error: &serde_json::Error) -> String {
    let message = error.to_string();
    let position = format!(" at line {} column {}", error.line(), error.column());
    message
        .strip_suffix(&position)
        .unwrap_or(&message)
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &[u8]) -> Result<Vec<Record>, String> {
        records(text, Path::new("posts.jsonl"))
            .collect::<Result<_, _>>()
            .map_err(|e| e.to_string())
    }

    #[test]
    fn lines_keep_their_numbers_and_fields_their_order() {
        let records = read(b"{\"z\": \"1\", \"a\": \"2\"}\r\n\n  \n{\"b\": \"3\"}").unwrap();
        let text = |name: &str, text: &str| (name.to_owned(), Value::Text(text.to_owned()));
        assert_eq!(
            records,
            [
                Record {
                    place: Place::Line(1),
                    values: vec![text("z", "1"), text("a", "2")]
                },
                Record {
                    place: Place::Line(4),
                    values: vec![text("b", "3")]
                },
            ]
        );
    }

    #[test]
    fn a_byte_order_mark_is_no_part_of_the_text() {
        assert_eq!(
            read("\u{feff}{\"a\": \"1\"}\n".as_bytes()).unwrap().len(),
            1
        );
        assert_eq!(read("\u{feff}\n".as_bytes()).unwrap().len(), 0);
    }

    #[test]
    fn values_become_text_where_they_can() {
        let rows = [
            (r#""é\n""#, Value::Text("é\n".to_owned())),
            ("-7", Value::Text("-7".to_owned())),
            (
                "18446744073709551615",
                Value::Text("18446744073709551615".to_owned()),
            ),
            ("2.50", Value::Text("2.5".to_owned())),
            ("true", Value::Text("true".to_owned())),
            ("null", Value::Other("null")),
            ("[\"x\"]", Value::Other("a list")),
            ("{\"x\": 1}", Value::Other("an object")),
        ];
        for (json, expected) in rows {
            let records = read(format!("{{\"field\": {json}}}").as_bytes()).unwrap();
            assert_eq!(records[0].values, [("field".to_owned(), expected)]);
        }
    }

    #[test]
    fn what_is_wrong_with_a_line_is_told() {
        let rows: [(&[u8], &str); 5] = [
            (
                b"{}\n\n{\"a\": }\n",
                "`posts.jsonl`, line 3, column 7: not valid JSON: expected value",
            ),
            (
                b"{\"a\": \"x",
                "`posts.jsonl`, line 1, column 8: not valid JSON: EOF while parsing a string",
            ),
            (
                b"{\"a\": \"\xff\"}",
                "`posts.jsonl`, line 1, column 8: not valid JSON: invalid unicode code point",
            ),
            (
                b"[1]\n",
                "`posts.jsonl`, line 1: expected an object with named fields, found a list",
            ),
            (
                b"{}\n\"x\"\n",
                "`posts.jsonl`, line 2: expected an object with named fields, found text",
            ),
        ];
        for (text, expected) in rows {
            assert_eq!(read(text).unwrap_err(), expected);
        }
    }
}
