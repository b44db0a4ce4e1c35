//! `polyphony resume`: a run that was stopped goes on.

use std::path::PathBuf;

use anyhow::Result;

use crate::{checkpoint::From, train};

/// The arguments of `polyphony resume`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The run's directory.
    run: PathBuf,
    /// The checkpoint to go on from, such as step-000020, or `start`; the newest one if left out.
    #[arg(long, value_name = "CHECKPOINT")]
    from: Option<From>,
    /// Training steps of the whole run, in place of the recipe's.
    #[arg(long, value_name = "N")]
    steps: Option<usize>,
}

/// Goes on with what the arguments say.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let from = arguments.from.clone().unwrap_or(From::Newest);
    train::resume(&arguments.run, &from, arguments.steps)
}
