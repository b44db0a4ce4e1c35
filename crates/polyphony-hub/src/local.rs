//! Models on this machine: Hugging Face directories, directories of adapters, and GGUF files.

use std::path::{Path, PathBuf};

use crate::{error::HubError, hub::HubModel, known::known_models};

/// The path that a text names. Only its existence is checked.
///
/// # Errors
/// If it does not exist. The message lists other ways to name a model, and guesses what was meant.
pub(crate) fn find(text: &str) -> Result<PathBuf, HubError> {
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
    Err(HubError::Unknown {
        text: text.to_owned(),
        known: names.join(", "),
        guess,
    })
}
