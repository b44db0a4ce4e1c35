//! `polyphony resume`: continues a run that was stopped.

use std::path::PathBuf;

use anyhow::Result;
use polyphony_runner::{From, Registry, Stop};

use crate::{commands::finish, display::Display, interrupt};

/// The arguments of `polyphony resume`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The run's directory.
    run: PathBuf,
    /// The checkpoint to resume from, such as step-000020, or `start`; by default the newest one.
    #[arg(long, value_name = "CHECKPOINT")]
    from: Option<From>,
    /// Training steps of the whole run, instead of the recipe's.
    #[arg(long, value_name = "N")]
    steps: Option<usize>,
}

/// Continues the run.
pub(crate) fn run(registry: &Registry, arguments: &Arguments) -> Result<()> {
    let from = arguments.from.clone().unwrap_or(From::Newest);
    let stop = Stop::new();
    interrupt::listen(&stop)?;
    let trained = polyphony_runner::resume(
        registry,
        &arguments.run,
        &from,
        arguments.steps,
        &stop,
        &mut Display::default(),
    )?;
    finish(&trained);
    Ok(())
}
