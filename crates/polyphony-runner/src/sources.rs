//! Models by name, as this program obtains them: converted by the model crate, with a display.

use std::{
    cell::RefCell,
    path::{Path, PathBuf},
};

use anyhow::Result;
pub use polyphony_hub::check;
use polyphony_hub::{HubError, ListedModel, ModelStore, Transfer};

use crate::transfer::Display;

/// The path of a model that [`polyphony_model::ModelFiles::open`] takes. What is not in a cache yet
/// is obtained.
///
/// # Errors
/// If the name is malformed or the model cannot be obtained: says what would help.
pub fn resolve(model: &str) -> Result<PathBuf> {
    with_store(|store| store.resolve(model))
}

/// As [`resolve`], but a branch on the hub is looked up again where a network is there.
///
/// # Errors
/// As [`resolve`].
pub fn fetch(model: &str) -> Result<PathBuf> {
    with_store(|store| store.fetch(model))
}

/// The models that are known or cached.
///
/// # Errors
/// If a cache cannot be read.
pub fn list() -> Result<Vec<ListedModel>> {
    with_store(|store| store.list())
}

fn with_store<T>(work: impl FnOnce(&ModelStore<'_>) -> Result<T, HubError>) -> Result<T> {
    let display = RefCell::new(None);
    let show = |transfer: Transfer<'_>| Display::show(&mut display.borrow_mut(), transfer);
    let convert = |source: &Path, target: &Path| Ok(polyphony_model::convert(source, target)?);
    Ok(work(&ModelStore::new(&convert).on_transfer(&show))?)
}
