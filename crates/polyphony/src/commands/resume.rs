//! `polyphony resume`: resumes a run that was stopped.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use polyphony_runner::{Registry, ResumeFrom, Stop};

use crate::{commands::print_summary, interrupt, launch::Launch};

/// The arguments of `polyphony resume`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Resume the run in this directory.
    run: PathBuf,
    /// Resume from this checkpoint, such as step-000020, or from `start`; by default from the newest one.
    #[arg(long, value_name = "CHECKPOINT")]
    from: Option<ResumeFrom>,
    /// Train until the whole run has this many steps, instead of the number in the recipe.
    #[arg(long, value_name = "N")]
    steps: Option<usize>,
    /// Replace a setting that does not affect the steps that are done, such as
    /// `updates.logprob_tolerance=0.2` or a time limit of the environment; can be given several times.
    #[arg(long = "set", value_name = "PATH=VALUE")]
    overrides: Vec<String>,
}

/// Resumes the run.
pub(crate) fn run(registry: &Registry, launch: &Launch, arguments: &Arguments) -> Result<ExitCode> {
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
        launch.world(),
        &stop,
        launch.display().as_mut(),
    )?;
    if launch.is_first() {
        print_summary(&trained);
    }
    Ok(interrupt.status())
}
