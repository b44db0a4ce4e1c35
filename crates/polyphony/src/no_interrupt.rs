//! Systems without Unix signals: Ctrl-C ends the program at once, and a run is resumed from its last checkpoint.

use std::process::ExitCode;

use anyhow::Result;
use polyphony_runner::Stop;

/// The signal that asked for the end of a run; here there never is one.
#[derive(Debug)]
pub(crate) struct Interrupt;

impl Interrupt {
    /// The exit status of a run that has ended in order.
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
