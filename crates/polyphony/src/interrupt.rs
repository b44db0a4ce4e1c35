//! Ctrl-C: the first one asks for an orderly end, the second one ends the program at once.

use anyhow::{Context as _, Result};
use polyphony_runner::Stop;

/// The exit status of a program that a signal ended: 128 plus SIGINT.
const INTERRUPTED: i32 = 130;

/// Listens for the rest of the program, and asks `stop` for an orderly end.
///
/// # Errors
/// If the system refuses the handler, or there is one already.
pub(crate) fn listen(stop: &Stop) -> Result<()> {
    let stop = stop.clone();
    ctrlc::set_handler(move || {
        if stop.is_requested() {
            std::process::exit(INTERRUPTED);
        }
        stop.request();
        log::warn!("ending after the current step or batch; press Ctrl-C again to stop at once");
    })
    .context("listening for Ctrl-C")
}
