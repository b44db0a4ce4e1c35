//! The subcommands of `polyphony`, one file each. Each has its arguments and a `run`.

use anyhow::{Context as _, Result};
use polyphony_model::{LanguageModel, ModelFiles};

use crate::{device::DeviceChoice, sources};

pub(crate) mod baseline;
pub(crate) mod bench;
pub(crate) mod compare;
pub(crate) mod eval;
pub(crate) mod generate;
pub(crate) mod logprobs;
pub(crate) mod models;
pub(crate) mod report;
pub(crate) mod resume;
pub(crate) mod sandbox;
pub(crate) mod score;
pub(crate) mod train;
pub(crate) mod watch;

/// Opens and loads the model that a command was given: a name or a path.
fn load(model: &str, device: DeviceChoice) -> Result<(ModelFiles, LanguageModel)> {
    let path = sources::resolve(model)?;
    let context = || format!("loading the model {}", path.display());
    let files = ModelFiles::open(&path).with_context(context)?;
    let loaded = LanguageModel::load(&files, &device.open()?).with_context(context)?;
    // A model with adapters answers the same, and faster, when they are merged.
    Ok((files, loaded.merged()))
}
