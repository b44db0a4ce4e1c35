//! `polyphony watch`: shows the progress of a training run in the terminal.

use std::path::PathBuf;

use anyhow::Result;

/// The arguments of `polyphony watch`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Show the run in this directory.
    run: PathBuf,
}

/// Shows the run until the user quits.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let never_stop = || false;
    Ok(polyphony_report::watch(&arguments.run, &never_stop)?)
}
