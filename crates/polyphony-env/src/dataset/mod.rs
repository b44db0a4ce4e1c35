//! The data sets that tasks come from.
//!
//! A recipe may name [`Embedded`], [`File`] or [`Problems`]. All three read records, which `record.rs`
//! turns into tasks.

mod bounds;
mod embedded;
mod error;
mod file;
mod json_lines;
mod parquet;
mod parquet_fields;
mod parquet_pages;
mod problems;
mod record;
mod thrift;

pub use self::{
    bounds::{BoundExceeded, DataBounds},
    embedded::{Embedded, EmbeddedSet},
    error::{DataSetError, RecordLocation},
    file::File,
    problems::Problems,
};

#[cfg(test)]
mod tests;
