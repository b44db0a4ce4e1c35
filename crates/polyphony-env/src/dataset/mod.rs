//! Where tasks come from.
//!
//! [`Embedded`], [`File`] and [`Problems`] are what a recipe may name; all three are read into tasks by
//! one `Mapping`.

mod bounds;
mod embedded;
mod error;
mod file;
mod json_lines;
mod parquet;
mod parquet_pages;
mod problems;
mod record;

pub use self::{
    bounds::{DataBounds, Exceeded},
    embedded::{Embedded, EmbeddedSet},
    error::{DataSetError, RecordLocation},
    file::File,
    problems::Problems,
};

#[cfg(test)]
mod tests;
