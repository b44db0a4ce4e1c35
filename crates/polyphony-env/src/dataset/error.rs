//! The errors of loading a data set.

use std::{fmt, io, path::PathBuf};

use parquet::errors::ParquetError;
use thiserror::Error;

use super::bounds::BoundExceeded;

/// The position of a record in its file, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordLocation {
    /// A line of a text file.
    Line(usize),
    /// A row of a table.
    Row(usize),
}

impl RecordLocation {
    /// The number alone.
    pub fn number(self) -> usize {
        match self {
            Self::Line(number) | Self::Row(number) => number,
        }
    }
}

impl fmt::Display for RecordLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(number) => write!(f, "line {number}"),
            Self::Row(number) => write!(f, "row {number}"),
        }
    }
}

/// Why a data set could not be loaded.
#[derive(Debug, Error)]
pub enum DataSetError {
    /// The file's name does not tell its format.
    #[error("`{path}`: unknown data set format; the name must end in one of {known}")]
    UnknownFormat {
        /// The file.
        path: PathBuf,
        /// The known endings.
        known: &'static str,
    },
    /// The file is missing, but the project can download it.
    #[error("cannot open data set `{path}`: `cargo xtask fetch humaneval` downloads it")]
    NotFetched {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The file is missing, or may not be read.
    #[error("cannot open data set `{path}`")]
    Open {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The path is not a regular file; reading it might never end.
    #[error("`{path}` is not a regular file but {found}")]
    NotAFile {
        /// The path.
        path: PathBuf,
        /// What it is, and what to do.
        found: &'static str,
    },
    /// The file or its tasks are larger than allowed.
    #[error("`{path}`, {location}: {exceeded}")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The record at which the bound was exceeded.
        location: RecordLocation,
        /// The bound, and how to raise it.
        exceeded: BoundExceeded,
    },
    /// Reading failed before the end of the file.
    #[error("cannot read line {line} of `{path}`")]
    Read {
        /// The file.
        path: PathBuf,
        /// The line that could not be read.
        line: usize,
        /// The system's error.
        source: io::Error,
    },
    /// The file is not a gzip file, or is damaged or incomplete.
    #[error(
        "`{path}` is not a complete gzip file: line {line} cannot be unpacked; download it again"
    )]
    BrokenGzip {
        /// The file.
        path: PathBuf,
        /// The line that could not be unpacked.
        line: usize,
        /// The decoder's error.
        source: io::Error,
    },
    /// A line is not JSON.
    #[error("`{path}`, line {line}, column {column}: not valid JSON: {reason}")]
    BadJson {
        /// The file.
        path: PathBuf,
        /// The line.
        line: usize,
        /// The position in the line at which parsing failed.
        column: usize,
        /// The parser's message.
        reason: String,
    },
    /// A line is JSON but has no named fields.
    #[error("`{path}`, line {line}: expected an object with named fields, found {found}")]
    NotAnObject {
        /// The file.
        path: PathBuf,
        /// The line.
        line: usize,
        /// What it is instead.
        found: &'static str,
    },
    /// The file is not a Parquet file, or is damaged.
    #[error("cannot read `{path}` as Parquet")]
    BadParquet {
        /// The file.
        path: PathBuf,
        /// The decoder's error.
        source: ParquetError,
    },
    /// A row of a Parquet file cannot be decoded.
    #[error("cannot read row {row} of `{path}`")]
    BadRow {
        /// The file.
        path: PathBuf,
        /// The row.
        row: usize,
        /// The decoder's error.
        source: ParquetError,
    },
    /// A Parquet file lacks a column that the mapping names.
    #[error("`{path}` has no column `{column}`; it has: {present}")]
    MissingColumn {
        /// The file.
        path: PathBuf,
        /// The column that the mapping names.
        column: String,
        /// The columns of the file, comma-separated.
        present: String,
    },
    /// A record lacks a field that the mapping names.
    #[error("`{path}`, {location}: no field `{field}`; the record has: {present}")]
    MissingField {
        /// The file.
        path: PathBuf,
        /// The record.
        location: RecordLocation,
        /// The field that the mapping names.
        field: String,
        /// The fields of the record, comma-separated.
        present: String,
    },
    /// A field holds something that cannot be turned into text.
    #[error(
        "`{path}`, {location}: field `{field}` holds {found}; \
         only text, numbers and true or false can be used"
    )]
    NotText {
        /// The file.
        path: PathBuf,
        /// The record.
        location: RecordLocation,
        /// The field.
        field: String,
        /// What it holds.
        found: &'static str,
    },
    /// Two records have the same identifier.
    #[error("`{path}`, {location}: the id `{id}` is already used by {earlier}")]
    DuplicateId {
        /// The file.
        path: PathBuf,
        /// The later record.
        location: RecordLocation,
        /// The identifier.
        id: String,
        /// The earlier record.
        earlier: RecordLocation,
    },
    /// All records were skipped.
    #[error("`{path}` holds {records} records, and `skip` skips all of them: lower it")]
    AllSkipped {
        /// The file.
        path: PathBuf,
        /// The number of records in the file.
        records: usize,
    },
    /// The file has no records.
    #[error("`{path}` holds no records")]
    Empty {
        /// The file.
        path: PathBuf,
    },
}
