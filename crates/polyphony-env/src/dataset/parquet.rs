//! Parquet: columns of text and numbers, read row by row.

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
    bounds::{Exceeded, Meter},
    error::{DataSetError, RecordLocation},
    parquet_pages::BoundedFile,
    record::{Mapping, Record, Value},
};
use crate::quiet::catch_panic;

/// Loads the tasks of a Parquet file.
///
/// On some damaged files the decoder asserts instead of returning an error. Such a panic stays in
/// here and becomes an error too.
pub(super) fn load(file: File, mapping: &Mapping<'_>) -> Result<Vec<Task>, DataSetError> {
    catch_panic(|| mapping.tasks(records(file, mapping)?)).unwrap_or_else(|payload| {
        let message = format!("damaged file: {}", panic_message(&*payload));
        Err(bad_parquet(mapping, ParquetError::General(message)))
    })
}

fn panic_message(payload: &(dyn Any + Send)) -> &str {
    let fixed = payload.downcast_ref::<&str>().copied();
    fixed
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

/// The records of the file, with the columns that are of use: the others are not decoded.
fn records(
    file: File,
    mapping: &Mapping<'_>,
) -> Result<impl Iterator<Item = Result<Record, DataSetError>>, DataSetError> {
    let broken = |error| bad_parquet(mapping, error);
    let reader = BoundedFile::new(file, mapping.bounds).map_err(broken)?;
    let schema = reader.metadata().file_metadata().schema();
    check_columns(schema, mapping)?;
    let wanted = projection(schema, mapping).map_err(broken)?;
    let rows = RowIter::from_file_into(Box::new(reader))
        .project(Some(wanted))
        .map_err(broken)?;
    let mut meter = Meter::new(mapping.bounds);
    Ok(rows.zip(1..).map(move |(row, number)| {
        let row = row.map_err(|error| bad_row(mapping, number, error))?;
        let counted = meter.add(row.get_column_iter().map(|(_, field)| size(field)).sum());
        counted.map_err(|exceeded| mapping.too_large(RecordLocation::Row(number), exceeded))?;
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
        && let Some(exceeded) = source.downcast_ref::<Exceeded>()
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

/// Whether a column holds a single value a row.
fn is_single(column: &Type) -> bool {
    column.is_primitive() && column.get_basic_info().repetition() != Repetition::REPEATED
}

/// Checks that every mapped column is there and holds single values.
fn check_columns(schema: &Type, mapping: &Mapping<'_>) -> Result<(), DataSetError> {
    let columns = schema.get_fields();
    for wanted in mapping.needed_fields() {
        let Some(column) = columns.iter().find(|column| column.name() == wanted) else {
            let present: Vec<&str> = columns.iter().map(|column| column.name()).collect();
            return Err(DataSetError::MissingColumn {
                path: mapping.path.to_owned(),
                column: wanted.to_owned(),
                present: present.join(", "),
            });
        };
        if !is_single(column) {
            return Err(DataSetError::NotText {
                path: mapping.path.to_owned(),
                place: RecordLocation::Row(1),
                field: wanted.to_owned(),
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
        place: RecordLocation::Row(number),
        values: values.collect(),
    }
}

fn value(field: Field) -> Value {
    let text = match field {
        Field::Str(text) => text,
        // Some writers leave out that a column of bytes holds text.
        Field::Bytes(bytes) => match std::str::from_utf8(bytes.data()) {
            Ok(text) => text.to_owned(),
            Err(_) => return Value::Other("binary data"),
        },
        Field::Bool(truth) => truth.to_string(),
        Field::Byte(number) => number.to_string(),
        Field::Short(number) => number.to_string(),
        Field::Int(number) => number.to_string(),
        Field::Long(number) => number.to_string(),
        Field::UByte(number) => number.to_string(),
        Field::UShort(number) => number.to_string(),
        Field::UInt(number) => number.to_string(),
        Field::ULong(number) => number.to_string(),
        // As JSON writes them: 2 as a floating-point number is `2.0`.
        Field::Float16(number) => format!("{:?}", number.to_f32()),
        Field::Float(number) => format!("{number:?}"),
        Field::Double(number) => format!("{number:?}"),
        Field::Null => return Value::Other("null"),
        Field::Decimal(_) => return Value::Other("a decimal number"),
        Field::Date(_)
        | Field::TimeMillis(_)
        | Field::TimeMicros(_)
        | Field::TimestampMillis(_)
        | Field::TimestampMicros(_) => return Value::Other("a date or time"),
        Field::Group(_) | Field::ListInternal(_) | Field::MapInternal(_) => {
            return Value::Other("a list or a group");
        }
    };
    Value::Text(text)
}

#[cfg(test)]
mod tests {
    use parquet::data_type::ByteArray;

    use super::*;

    #[test]
    fn values_become_text_where_they_can() {
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
            let expected = expected.map_or_else(Value::Other, |text| Value::Text(text.to_owned()));
            assert_eq!(value(field.clone()), expected, "{field:?}");
        }
    }
}
