//! Reads JSON lines: one object per line. Blank lines are skipped.

use std::{
    fmt,
    io::{BufRead, Read},
    iter,
};

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::Number;

use super::{
    bounds::{Bound, Meter},
    error::{DataSetError, RecordLocation},
    record::{Mapping, Record, Value},
};

/// The mark that some editors put at the start of a UTF-8 file.
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// The records of a stream of lines.
pub(super) fn records<'a>(
    input: impl BufRead + 'a,
    mapping: &Mapping<'a>,
) -> impl Iterator<Item = Result<Record, DataSetError>> + 'a {
    let mut lines = Lines {
        input,
        mapping: *mapping,
        meter: Meter::new(mapping.bounds),
        number: 0,
    };
    iter::from_fn(move || {
        loop {
            let line = match lines.next_line().transpose()? {
                Ok(line) => line,
                Err(error) => return Some(Err(error)),
            };
            let text = line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&line);
            if !text.trim_ascii().is_empty() {
                return Some(record(text, &lines.mapping, lines.number));
            }
        }
    })
}

/// Lines within the bounds of the data set.
struct Lines<'a, R> {
    input: R,
    mapping: Mapping<'a>,
    meter: Meter,
    /// The number of the line that was read last, counted from 1.
    number: usize,
}

impl<R: BufRead> Lines<'_, R> {
    /// The next line without its end.
    fn next_line(&mut self) -> Result<Option<Vec<u8>>, DataSetError> {
        self.number += 1;
        let limit = self.mapping.bounds.max(Bound::Record).saturating_add(1);
        let mut line = Vec::new();
        let mut input = self.input.by_ref().take(limit as u64);
        let length = input.read_until(b'\n', &mut line);
        let length = length.map_err(|source| DataSetError::Read {
            path: self.mapping.path.to_owned(),
            line: self.number,
            source,
        })?;
        if length == 0 {
            return Ok(None);
        }
        let checked = self.meter.add(length);
        checked.map_err(|e| self.mapping.too_large(RecordLocation::Line(self.number), e))?;
        if line.last() == Some(&b'\n') {
            line.pop();
        }
        Ok(Some(line))
    }
}

fn record(text: &[u8], mapping: &Mapping<'_>, line: usize) -> Result<Record, DataSetError> {
    let bad_json = |error: serde_json::Error| DataSetError::BadJson {
        path: mapping.path.to_owned(),
        line,
        column: error.column(),
        reason: reason(&error),
    };
    let first = text.trim_ascii_start().first().copied();
    if first != Some(b'{') {
        serde_json::from_slice::<IgnoredAny>(text).map_err(bad_json)?;
        return Err(DataSetError::NotAnObject {
            path: mapping.path.to_owned(),
            line,
            found: kind(first),
        });
    }
    let Fields(values) = serde_json::from_slice(text).map_err(bad_json)?;
    Ok(Record {
        location: RecordLocation::Line(line),
        values,
    })
}

/// The kind of a value that begins with this byte and is not an object.
fn kind(first: Option<u8>) -> &'static str {
    match first {
        Some(b'n') => "null",
        Some(b't' | b'f') => "a boolean",
        Some(b'"') => "text",
        Some(b'[') => "a list",
        _ => "a number",
    }
}

/// The values of an object. Lists and objects inside it are skipped, so that they take no memory.
struct Fields(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FieldsVisitor;

        impl<'de> Visitor<'de> for FieldsVisitor {
            type Value = Fields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object with named fields")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Fields(fields))
            }
        }

        deserializer.deserialize_map(FieldsVisitor)
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ValueVisitor;

        impl<'de> Visitor<'de> for ValueVisitor {
            type Value = Value;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }

            fn visit_str<E>(self, text: &str) -> Result<Value, E> {
                Ok(Value::Text(text.to_owned()))
            }

            fn visit_bool<E>(self, boolean: bool) -> Result<Value, E> {
                Ok(Value::Text(boolean.to_string()))
            }

            fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
                Ok(Value::Text(number.to_string()))
            }

            fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
                Ok(Value::Text(number.to_string()))
            }

            fn visit_f64<E>(self, number: f64) -> Result<Value, E> {
                let text = Number::from_f64(number).map(|number| number.to_string());
                Ok(text.map_or(Value::NotText("an infinite number or NaN"), Value::Text))
            }

            fn visit_unit<E>(self) -> Result<Value, E> {
                Ok(Value::NotText("null"))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
                while list.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Value::NotText("a list"))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Value, A::Error> {
                while object.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Value::NotText("an object"))
            }
        }

        deserializer.deserialize_any(ValueVisitor)
    }
}

/// The parser's message without its position, because to the parser every line is line 1.
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
    use std::{collections::BTreeMap, path::Path};

    use super::*;
    use crate::dataset::bounds::DataBounds;

    fn read(text: &[u8]) -> Result<Vec<Record>, String> {
        let mapping = Mapping {
            path: Path::new("posts.jsonl"),
            fields: &BTreeMap::new(),
            id: None,
            skip: 0,
            limit: None,
            bounds: DataBounds::default(),
        };
        records(text, &mapping)
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
                    location: RecordLocation::Line(1),
                    values: vec![text("z", "1"), text("a", "2")]
                },
                Record {
                    location: RecordLocation::Line(4),
                    values: vec![text("b", "3")]
                },
            ]
        );
    }

    #[test]
    fn a_byte_order_mark_is_not_part_of_the_text() {
        assert_eq!(
            read("\u{feff}{\"a\": \"1\"}\n".as_bytes()).unwrap().len(),
            1
        );
        assert_eq!(read("\u{feff}\n".as_bytes()).unwrap().len(), 0);
    }

    #[test]
    fn values_become_text_if_possible() {
        let rows = [
            (r#""é\n""#, Value::Text("é\n".to_owned())),
            ("-7", Value::Text("-7".to_owned())),
            (
                "18446744073709551615",
                Value::Text("18446744073709551615".to_owned()),
            ),
            ("2.50", Value::Text("2.5".to_owned())),
            ("true", Value::Text("true".to_owned())),
            ("null", Value::NotText("null")),
            ("[\"x\"]", Value::NotText("a list")),
            ("{\"x\": 1}", Value::NotText("an object")),
        ];
        for (json, expected) in rows {
            let records = read(format!("{{\"field\": {json}}}").as_bytes()).unwrap();
            assert_eq!(records[0].values, [("field".to_owned(), expected)]);
        }
    }

    #[test]
    fn errors_say_what_is_wrong_with_a_line() {
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
