//! Where models come from: a name that polyphony knows, a local directory, or a GGUF file.
//!
//! A known model is obtained once, checked against its digest, converted to a Hugging Face
//! directory and kept in the cache; [`resolve`] gives its path ever after, without a network.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

mod cache;
mod known;
mod obtain;
mod pypi;

pub use cache::Cache;
pub use known::{KnownModel, known_models};

/// The path of a model that [`polyphony_model::ModelFiles::open`] takes.
///
/// `model` is the name of a known model, which is obtained if it is not in the cache, or the path
/// of a Hugging Face directory or a `.gguf` file.
///
/// # Errors
/// If it is none of these, or a known model cannot be obtained: says what would help.
pub fn resolve(model: &str) -> Result<PathBuf> {
    if let Some(known) = known_models().iter().find(|known| known.name == model) {
        return obtain::obtain(known, &Cache::open()?);
    }
    if let Some(name) = model.strip_prefix("hub:") {
        bail!(
            "`{model}`: models from the hub are not supported yet. Download `{name}` yourself, for \
             example with `huggingface-cli download {name} --local-dir DIRECTORY`, and give the \
             directory in place of the name"
        );
    }
    let path = Path::new(model);
    if path.exists() {
        return Ok(path.to_owned());
    }
    let names: Vec<&str> = known_models().iter().map(|known| known.name).collect();
    bail!(
        "`{model}` is neither a model that polyphony knows ({}) nor a directory or .gguf file that \
         exists",
        names.join(", ")
    );
}

/// Refuses what [`resolve`] would refuse, without obtaining anything.
///
/// # Errors
/// If it is neither the name of a known model nor a path that exists.
pub fn check(model: &str) -> Result<()> {
    if known_models().iter().any(|known| known.name == model) {
        return Ok(());
    }
    resolve(model).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_local_path_is_itself() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(
            resolve(folder.path().to_str().unwrap()).unwrap(),
            folder.path()
        );
    }

    #[test]
    fn what_is_no_model_is_told_the_way_out() {
        let rows = [
            (
                "smollm2",
                "`smollm2` is neither a model that polyphony knows (smollm2-135m) nor a directory \
                 or .gguf file that exists",
            ),
            (
                "hub:Qwen/Qwen3-0.6B",
                "`hub:Qwen/Qwen3-0.6B`: models from the hub are not supported yet. Download \
                 `Qwen/Qwen3-0.6B` yourself, for example with `huggingface-cli download \
                 Qwen/Qwen3-0.6B --local-dir DIRECTORY`, and give the directory in place of the name",
            ),
        ];
        for (model, expected) in rows {
            assert_eq!(resolve(model).unwrap_err().to_string(), expected);
        }
    }
}
