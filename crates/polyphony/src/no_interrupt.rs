//! Systems without Unix signals: Ctrl-C ends the program at once, and a run is resumed from its last
//! checkpoint.

use std::process::ExitCode;

use anyhow::Result;
use polyphony_runner::Stop;

/// The signal that asked a run to end; on these systems there is never one.
#[derive(Debug)]
pub(crate) struct Interrupt;

impl Interrupt {
    /// The exit status of a run that has ended in an orderly way.
    pub(crate) fn status(&self) -> ExitCode {
        ExitCode::SUCCESS
    }
}

/// Does nothing.
///
/// # Errors
/// Never.
pub(crate) fn listen(_: &Stop) -> Result<Interrupt> {
    Ok(Interrupt)
}
