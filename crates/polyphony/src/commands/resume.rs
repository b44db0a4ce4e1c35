//! `polyphony resume`: continues a run that was stopped.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use polyphony_runner::{Registry, ResumeFrom, Stop};

use crate::{commands::finish, display::Display, interrupt};

/// The arguments of `polyphony resume`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The run's directory.
    run: PathBuf,
    /// The checkpoint to resume from, such as step-000020, or `start`; by default the newest one.
    #[arg(long, value_name = "CHECKPOINT")]
    from: Option<ResumeFrom>,
    /// Training steps of the whole run, instead of the recipe's.
    #[arg(long, value_name = "N")]
    steps: Option<usize>,
    /// Replaces a setting that leaves what is done as it is, such as `updates.logprob_tolerance=0.2` or a
    /// time limit of the environment; may be given several times.
    #[arg(long = "set", value_name = "PATH=VALUE")]
    overrides: Vec<String>,
}

/// Continues the run.
pub(crate) fn run(registry: &Registry, arguments: &Arguments) -> Result<ExitCode> {
    let from = arguments.from.clone().unwrap_or(ResumeFrom::Newest);
    let steps = arguments.steps.map(|steps| format!("steps={steps}"));
    let overrides: Vec<String> = arguments.overrides.iter().cloned().chain(steps).collect();
    let stop = Stop::new();
    let interrupt = interrupt::listen(&stop)?;
    let trained = polyphony_runner::resume(
        registry,
        &arguments.run,
        &from,
        &overrides,
        &stop,
        &mut Display::default(),
    )?;
    finish(&trained);
    Ok(interrupt.status())
}
