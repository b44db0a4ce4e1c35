//! Ctrl-C: the first one asks for an orderly end, the second one ends at once.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

use anyhow::{Context as _, Result};

static PRESSED: AtomicUsize = AtomicUsize::new(0);

/// The exit status of a program that a signal ended: 128 plus SIGINT.
const INTERRUPTED: i32 = 130;

/// Starts listening, for the rest of the program.
///
/// # Errors
/// If the system refuses the handler.
pub(crate) fn listen() -> Result<()> {
    static LISTENING: Mutex<bool> = Mutex::new(false);
    let mut listening = LISTENING.lock().unwrap_or_else(PoisonError::into_inner);
    if *listening {
        return Ok(());
    }
    ctrlc::set_handler(|| {
        if PRESSED.fetch_add(1, Ordering::SeqCst) > 0 {
            std::process::exit(INTERRUPTED);
        }
        log::warn!("ending once what is being done is done; press Ctrl-C again to stop at once");
    })
    .context("listening for Ctrl-C")?;
    *listening = true;
    Ok(())
}

/// Whether an orderly end was asked for.
pub(crate) fn requested() -> bool {
    PRESSED.load(Ordering::SeqCst) > 0
}
