//! The subcommands of `polyphony`, one file each. The file of a subcommand defines the arguments and a function
//! `run`. `evaluation.rs` holds what `eval` and `baseline` have in common.

use std::path::Path;

use anyhow::{Context as _, Result};
use polyphony_episode::Task;
use polyphony_model::{LanguageModel, ModelFiles};
use polyphony_runner::{Choice, DeviceChoice, PrecisionChoice, Registry, Trained, resolve_model};

use crate::{display::Display, summary, terminal};

pub(crate) mod baseline;
pub(crate) mod bench;
pub(crate) mod compare;
pub(crate) mod device;
pub(crate) mod environment;
pub(crate) mod eval;
mod evaluation;
pub(crate) mod generate;
pub(crate) mod logprobs;
pub(crate) mod models;
pub(crate) mod plan;
pub(crate) mod report;
pub(crate) mod resume;
pub(crate) mod sandbox;
pub(crate) mod score;
pub(crate) mod train;
pub(crate) mod watch;

/// Opens and loads a model by name or path.
fn load(
    model: &str,
    device: DeviceChoice,
    precision: PrecisionChoice,
) -> Result<(ModelFiles, LanguageModel)> {
    let path = resolve_model(model, &mut Display::default())?;
    let context = || format!("loading the model {}", path.display());
    let files = ModelFiles::open(&path).with_context(context)?;
    let precision = precision.on(device)?;
    let model = LanguageModel::load(&files, &device.open()?).with_context(context)?;
    // Merged adapters give the same answers faster.
    let model = model.merged().with_precision(precision);
    Ok((files, model.with_context(context)?))
}

/// Loads the tasks in the file of `--tasks`.
fn load_tasks(registry: &Registry, path: &Path) -> Result<Vec<Task>> {
    let file = Choice::with_settings("File", format!("(path: {:?})", path.display().to_string()));
    let source = registry.read_source(&file)?.settings;
    let tasks = source.load().map_err(anyhow::Error::from_boxed);
    tasks.context("loading --tasks")
}

/// Prints the summary of a training run on standard error.
fn print_summary(trained: &Trained) {
    terminal::write(&summary::of(trained));
}

/// The arguments of a command, from the words after its name.
#[cfg(test)]
fn parse<A: clap::Args>(words: &[&str]) -> A {
    let command = A::augment_args(clap::Command::new("polyphony").no_binary_name(true));
    A::from_arg_matches(&command.get_matches_from(words)).expect("the command has these arguments")
}
