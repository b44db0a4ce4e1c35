//! `polyphony watch`: a running training in the terminal.

use std::path::PathBuf;

use anyhow::Result;

/// The arguments of `polyphony watch`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The run's directory.
    run: PathBuf,
}

/// Shows the run until the user leaves.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let never = || false;
    Ok(polyphony_report::watch(&arguments.run, &never)?)
}
