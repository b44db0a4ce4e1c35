//! Everything that can be wrong with a data set.

use std::{fmt, io, path::PathBuf};

use parquet::errors::ParquetError;
use thiserror::Error;

use super::bounds::Exceeded;

/// Where a record stands in its file, counted from 1.
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
    /// The file's name does not say what it holds.
    #[error("`{path}`: unknown data set format; the name must end in one of {known}")]
    UnknownFormat {
        /// The file.
        path: PathBuf,
        /// The endings that are known.
        known: &'static str,
    },
    /// The file is one that the project can fetch, and has not been fetched.
    #[error("cannot open data set `{path}`: `cargo xtask fetch humaneval` brings it there")]
    NotFetched {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The file is missing, or may not be read.
    #[error("cannot open data set `{path}`")]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The path leads to something that may have no end.
    #[error("`{path}` is not a regular file but {found}")]
    NotAFile {
        /// The path.
        path: PathBuf,
        /// What is there, and what to do.
        found: &'static str,
    },
    /// The file or its tasks are larger than allowed.
    #[error("`{path}`, {place}: {exceeded}")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Where the bound was passed.
        place: RecordLocation,
        /// Which bound.
        exceeded: Exceeded,
    },
    /// Reading failed on the way.
    #[error("cannot read line {line} of `{path}`")]
    Read {
        /// The file.
        path: PathBuf,
        /// The line that could not be read.
        line: usize,
        /// What the system says.
        source: io::Error,
    },
    /// The file is no gzip file, or a damaged or incomplete one.
    #[error("`{path}` is not a whole gzip file: line {line} cannot be unpacked; fetch it again")]
    BrokenGzip {
        /// The file.
        path: PathBuf,
        /// The line that could not be unpacked.
        line: usize,
        /// What the decoder says.
        source: io::Error,
    },
    /// A line is not JSON.
    #[error("`{path}`, line {line}, column {column}: not valid JSON: {reason}")]
    BadJson {
        /// The file.
        path: PathBuf,
        /// The line.
        line: usize,
        /// How far into the line it was understood.
        column: usize,
        /// What the parser says.
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
    /// The file is no Parquet file, or a damaged one.
    #[error("cannot read `{path}` as Parquet")]
    BadParquet {
        /// The file.
        path: PathBuf,
        /// What the decoder says.
        source: ParquetError,
    },
    /// A row of a Parquet file cannot be decoded.
    #[error("cannot read row {row} of `{path}`")]
    BadRow {
        /// The file.
        path: PathBuf,
        /// The row.
        row: usize,
        /// What the decoder says.
        source: ParquetError,
    },
    /// A Parquet file lacks a column that the mapping names.
    #[error("`{path}` has no column `{column}`; it has: {present}")]
    MissingColumn {
        /// The file.
        path: PathBuf,
        /// The column that the mapping names.
        column: String,
        /// The columns that are there, comma-separated.
        present: String,
    },
    /// A record lacks a field that the mapping names.
    #[error("`{path}`, {place}: no field `{field}`; the record has: {present}")]
    MissingField {
        /// The file.
        path: PathBuf,
        /// The record.
        place: RecordLocation,
        /// The field that the mapping names.
        field: String,
        /// The fields that are there, comma-separated.
        present: String,
    },
    /// A field holds something that has no plain text.
    #[error(
        "`{path}`, {place}: field `{field}` holds {found}; \
         only text, numbers and true or false can be used"
    )]
    NotText {
        /// The file.
        path: PathBuf,
        /// The record.
        place: RecordLocation,
        /// The field.
        field: String,
        /// What it holds.
        found: &'static str,
    },
    /// Two records have the same identifier.
    #[error("`{path}`, {place}: the id `{id}` was already given to {earlier}")]
    DuplicateId {
        /// The file.
        path: PathBuf,
        /// The later record.
        place: RecordLocation,
        /// The identifier.
        id: String,
        /// The earlier record.
        earlier: RecordLocation,
    },
    /// All records were to be left out.
    #[error("`{path}` holds {records} records, and `skip` leaves none of them: lower it")]
    AllSkipped {
        /// The file.
        path: PathBuf,
        /// How many records it holds.
        records: usize,
    },
    /// There is not a single record.
    #[error("`{path}` holds no records")]
    Empty {
        /// The file.
        path: PathBuf,
    },
}
