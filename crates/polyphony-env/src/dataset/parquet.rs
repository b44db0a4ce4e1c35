//! Reads Parquet files with columns of text and numbers, row by row.

use std::{any::Any, fs::File, sync::Arc};

use parquet::{
    basic::Repetition,
    errors::ParquetError,
    file::reader::FileReader,
    record::{Field, Row, reader::RowIter},
    schema::types::Type,
};
use polyphony_episode::Task;

use super::{
    bounds::{BoundExceeded, Meter},
    error::{DataSetError, RecordLocation},
    parquet_pages::BoundedFile,
    record::{Mapping, Record, Value},
};
use crate::quiet::catch_panic;

/// Loads the tasks of a Parquet file.
///
/// On some damaged files the decoder panics instead of returning an error. Such a panic is caught here
/// and becomes an error too.
pub(super) fn load(file: File, mapping: &Mapping<'_>) -> Result<Vec<Task>, DataSetError> {
    catch_panic(|| mapping.tasks(records(file, mapping)?)).unwrap_or_else(|payload| {
        let message = format!("damaged file: {}", panic_message(&*payload));
        Err(bad_parquet(mapping, ParquetError::General(message)))
    })
}

fn panic_message(payload: &(dyn Any + Send)) -> &str {
    let literal = payload.downcast_ref::<&str>().copied();
    literal
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

/// The records of the file. Only the columns that are used are decoded.
fn records(
    file: File,
    mapping: &Mapping<'_>,
) -> Result<impl Iterator<Item = Result<Record, DataSetError>>, DataSetError> {
    let broken = |error| bad_parquet(mapping, error);
    let reader = BoundedFile::new(file, mapping.bounds).map_err(broken)?;
    let schema = reader.metadata().file_metadata().schema();
    check_columns(schema, mapping)?;
    let used_columns = projection(schema, mapping).map_err(broken)?;
    let rows = RowIter::from_file_into(Box::new(reader))
        .project(Some(used_columns))
        .map_err(broken)?;
    let mut meter = Meter::new(mapping.bounds);
    Ok(rows.zip(1..).map(move |(row, number)| {
        let row = row.map_err(|error| bad_row(mapping, number, error))?;
        let checked = meter.add(row.get_column_iter().map(|(_, field)| size(field)).sum());
        checked.map_err(|exceeded| mapping.too_large(RecordLocation::Row(number), exceeded))?;
        Ok(record(row, number))
    }))
}

fn bad_parquet(mapping: &Mapping<'_>, error: ParquetError) -> DataSetError {
    DataSetError::BadParquet {
        path: mapping.path.to_owned(),
        source: error,
    }
}

fn bad_row(mapping: &Mapping<'_>, row: usize, error: ParquetError) -> DataSetError {
    if let ParquetError::External(source) = &error
        && let Some(exceeded) = source.downcast_ref::<BoundExceeded>()
    {
        return mapping.too_large(RecordLocation::Row(row), exceeded.clone());
    }
    DataSetError::BadRow {
        path: mapping.path.to_owned(),
        row,
        source: error,
    }
}

/// The length of a value in bytes.
fn size(field: &Field) -> usize {
    match field {
        Field::Str(text) => text.len(),
        Field::Bytes(bytes) => bytes.len(),
        _ => size_of::<u64>(),
    }
}

/// Whether a column has a single value per row.
fn is_single(column: &Type) -> bool {
    column.is_primitive() && column.get_basic_info().repetition() != Repetition::REPEATED
}

/// Checks that every mapped column exists and has a single value per row.
fn check_columns(schema: &Type, mapping: &Mapping<'_>) -> Result<(), DataSetError> {
    let columns = schema.get_fields();
    for name in mapping.required_fields() {
        let Some(column) = columns.iter().find(|column| column.name() == name) else {
            let present: Vec<&str> = columns.iter().map(|column| column.name()).collect();
            return Err(DataSetError::MissingColumn {
                path: mapping.path.to_owned(),
                column: name.to_owned(),
                present: present.join(", "),
            });
        };
        if !is_single(column) {
            return Err(DataSetError::NotText {
                path: mapping.path.to_owned(),
                location: RecordLocation::Row(1),
                field: name.to_owned(),
                found: "a list or a group",
            });
        }
    }
    Ok(())
}

fn projection(schema: &Type, mapping: &Mapping<'_>) -> Result<Type, ParquetError> {
    let columns = schema
        .get_fields()
        .iter()
        .filter(|column| is_single(column) && mapping.is_used(column.name()));
    Type::group_type_builder(schema.name())
        .with_fields(columns.map(Arc::clone).collect())
        .build()
}

fn record(row: Row, number: usize) -> Record {
    let values = row
        .into_columns()
        .into_iter()
        .map(|(name, field)| (name, value(field)));
    Record {
        location: RecordLocation::Row(number),
        values: values.collect(),
    }
}

fn value(field: Field) -> Value {
    let text = match field {
        Field::Str(text) => text,
        // Some writers do not mark a column of bytes as text.
        Field::Bytes(bytes) => match std::str::from_utf8(bytes.data()) {
            Ok(text) => text.to_owned(),
            Err(_) => return Value::NotText("binary data"),
        },
        Field::Bool(boolean) => boolean.to_string(),
        Field::Byte(number) => number.to_string(),
        Field::Short(number) => number.to_string(),
        Field::Int(number) => number.to_string(),
        Field::Long(number) => number.to_string(),
        Field::UByte(number) => number.to_string(),
        Field::UShort(number) => number.to_string(),
        Field::UInt(number) => number.to_string(),
        Field::ULong(number) => number.to_string(),
        // `Debug` writes floating-point numbers as JSON does: 2 is `2.0`.
        Field::Float16(number) => format!("{:?}", number.to_f32()),
        Field::Float(number) => format!("{number:?}"),
        Field::Double(number) => format!("{number:?}"),
        Field::Null => return Value::NotText("null"),
        Field::Decimal(_) => return Value::NotText("a decimal number"),
        Field::Date(_)
        | Field::TimeMillis(_)
        | Field::TimeMicros(_)
        | Field::TimestampMillis(_)
        | Field::TimestampMicros(_) => return Value::NotText("a date or time"),
        Field::Group(_) | Field::ListInternal(_) | Field::MapInternal(_) => {
            return Value::NotText("a list or a group");
        }
    };
    Value::Text(text)
}

#[cfg(test)]
mod tests {
    use parquet::data_type::ByteArray;

    use super::*;

    #[test]
    fn values_become_text_if_possible() {
        let bytes = |bytes: &[u8]| Field::Bytes(ByteArray::from(bytes.to_vec()));
        let rows = [
            (Field::Str("é".to_owned()), Ok("é")),
            (bytes("é".as_bytes()), Ok("é")),
            (bytes(b"\xff"), Err("binary data")),
            (Field::Bool(true), Ok("true")),
            (Field::Byte(-1), Ok("-1")),
            (Field::Short(-2), Ok("-2")),
            (Field::Int(-3), Ok("-3")),
            (Field::Long(i64::MIN), Ok("-9223372036854775808")),
            (Field::UByte(1), Ok("1")),
            (Field::UShort(2), Ok("2")),
            (Field::UInt(3), Ok("3")),
            (Field::ULong(u64::MAX), Ok("18446744073709551615")),
            (Field::Float(0.1), Ok("0.1")),
            (Field::Double(2.0), Ok("2.0")),
            (Field::Double(f64::NAN), Ok("NaN")),
            (Field::Null, Err("null")),
            (Field::Date(1), Err("a date or time")),
            (Field::TimestampMicros(1), Err("a date or time")),
            (Field::Group(Row::new(Vec::new())), Err("a list or a group")),
        ];
        for (field, expected) in rows {
            let expected =
                expected.map_or_else(Value::NotText, |text| Value::Text(text.to_owned()));
            assert_eq!(value(field.clone()), expected, "{field:?}");
        }
    }
}
