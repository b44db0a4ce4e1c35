//! Finds models by name: downloads them if they are not cached, and converts them if needed.

use std::{
    cell::RefCell,
    error::Error,
    path::{Path, PathBuf},
};

use anyhow::Result;
use polyphony_hub::{ModelStore, Transfer};

use crate::observer::{Event, Observer};

/// The path of a model: a Hugging Face directory or a GGUF file. A model that is not cached is downloaded
/// first.
///
/// # Errors
/// If the name is malformed or the model cannot be obtained; the message says what would help.
pub fn resolve_model(model: &str, observer: &mut dyn Observer) -> Result<PathBuf> {
    with_model_store(observer, |store| Ok(store.resolve(model)?))
}

/// Runs `work` with the model store that the environment variables describe.
///
/// # Errors
/// The errors of `work`.
pub fn with_model_store<T>(
    observer: &mut dyn Observer,
    work: impl FnOnce(&ModelStore<'_>) -> Result<T>,
) -> Result<T> {
    let observer = RefCell::new(observer);
    let on_transfer = |transfer: Transfer<'_>| {
        observer.borrow_mut().on_event(Event::Transfer(transfer));
    };
    work(&ModelStore::new(&convert).on_transfer(&on_transfer))
}

/// Converts a GGUF file to a Hugging Face directory.
fn convert(file: &Path, target: &Path) -> Result<(), Box<dyn Error + Send + Sync>> {
    Ok(polyphony_model::convert(file, target)?)
}
