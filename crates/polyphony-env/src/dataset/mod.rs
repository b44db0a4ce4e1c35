//! Where tasks come from.
//!
//! [`Embedded`], [`File`] and [`Problems`] are what a recipe may name; all three are read into tasks by
//! one `Mapping`.

mod embedded;
mod error;
mod file;
mod json_lines;
mod parquet;
mod problems;
mod record;

pub use self::{
    embedded::{Embedded, EmbeddedSet},
    error::{DataSetError, Place},
    file::File,
    problems::Problems,
};

#[cfg(test)]
mod tests;
