//! Reading single files, with errors that name the file and what should have been in it.

use std::fs::File;
use std::io::{Error, ErrorKind};
use std::path::Path;

use memmap2::Mmap;
use serde_json::Value;

use crate::error::ModelError;

/// The text of a file; `None` if there is no such file.
pub(super) fn optional_text(path: &Path) -> Result<Option<String>, ModelError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(ModelError::Read {
            path: path.to_owned(),
            source,
        }),
    }
}

/// A JSON file that has to be there; `expected` says what it should be.
pub(super) fn read_json(path: &Path, expected: &str) -> Result<Value, ModelError> {
    optional_json(path)?.ok_or_else(|| ModelError::Missing {
        path: path.to_owned(),
        expected: expected.to_owned(),
    })
}

/// A JSON file; `None` if there is no such file.
pub(super) fn optional_json(path: &Path) -> Result<Option<Value>, ModelError> {
    let Some(text) = optional_text(path)? else {
        return Ok(None);
    };
    match serde_json::from_str(&text) {
        Ok(json) => Ok(Some(json)),
        Err(source) => Err(ModelError::Json {
            path: path.to_owned(),
            source,
        }),
    }
}

/// Maps a file into memory.
///
/// # Errors
/// If it does not exist (`expected` says what should be there) or cannot be mapped.
pub(super) fn map_file(path: &Path, expected: &str) -> Result<Mmap, ModelError> {
    let file = File::open(path).map_err(|source| read_error(path, source, expected))?;
    // SAFETY: a mapping must not change while it is borrowed. Weights files are written once and
    // never edited in place (this crate writes to a new name and renames); as with every mapped
    // reader, whoever truncates a model that is being loaded ends the process.
    unsafe { Mmap::map(&file) }.map_err(|source| ModelError::Read {
        path: path.to_owned(),
        source,
    })
}

/// The error for a file that could not be opened.
pub(super) fn read_error(path: &Path, source: Error, expected: &str) -> ModelError {
    if source.kind() == ErrorKind::NotFound {
        ModelError::Missing {
            path: path.to_owned(),
            expected: expected.to_owned(),
        }
    } else {
        ModelError::Read {
            path: path.to_owned(),
            source,
        }
    }
}
