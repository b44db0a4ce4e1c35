//! Ctrl-C: the first one asks for an orderly end, the second one ends at once.

use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, Result};

static PRESSED: AtomicUsize = AtomicUsize::new(0);

/// The exit status of a program that a signal ended: 128 plus SIGINT.
const INTERRUPTED: i32 = 130;

/// Starts listening. Must be called once at most.
///
/// # Errors
/// If the system refuses the handler.
pub(crate) fn listen() -> Result<()> {
    ctrlc::set_handler(|| {
        if PRESSED.fetch_add(1, Ordering::SeqCst) > 0 {
            std::process::exit(INTERRUPTED);
        }
        log::warn!("finishing the step; press Ctrl-C again to stop at once");
    })
    .context("listening for Ctrl-C")
}

/// Whether an orderly end was asked for.
pub(crate) fn requested() -> bool {
    PRESSED.load(Ordering::SeqCst) > 0
}
