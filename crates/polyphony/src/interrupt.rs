//! Signals that ask for the end of a run: the first one ends it in order, the next one ends the program at once.

use std::{
    process::ExitCode,
    ptr,
    sync::{
        Arc,
        atomic::{AtomicI32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use polyphony_runner::Stop;
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
    low_level,
};

/// A signal may come twice for one request: `timeout` sends it to the program and then to its process group.
const SAME_REQUEST: Duration = Duration::from_millis(200);

/// The signal that asked for the end of a run; 0 if there was none.
#[derive(Debug, Default)]
pub(crate) struct Interrupt(Arc<AtomicI32>);

impl Interrupt {
    /// The exit status of a run that has ended in order. Whoever presses Ctrl-C sees how it ended; a scheduler that
    /// ends a job looks for the status that the signal would have had.
    pub(crate) fn status(&self) -> ExitCode {
        match self.0.load(Ordering::SeqCst) {
            0 | SIGINT => ExitCode::SUCCESS,
            signal => ExitCode::from(status(signal) as u8),
        }
    }
}

/// Listens for the rest of the program, and asks `stop` for an orderly end.
///
/// # Errors
/// If the system refuses.
pub(crate) fn listen(stop: &Stop) -> Result<Interrupt> {
    // Whoever starts a program that ignores a signal means it, as `nohup` and the `&` of a script do.
    let heeded = [SIGINT, SIGTERM, SIGHUP].into_iter();
    let heeded = heeded.filter(|signal| !is_ignored(*signal));
    let mut signals = Signals::new(heeded).context("listening for signals")?;
    let interrupt = Interrupt::default();
    let first = Arc::clone(&interrupt.0);
    let stop = stop.clone();
    let obey = move || {
        let mut signals = signals.forever();
        let Some(request) = signals.next() else {
            return;
        };
        let began = Instant::now();
        first.store(request, Ordering::SeqCst);
        stop.request();
        // On a thread of its own, since a terminal that is held (Ctrl-S) would hold it.
        thread::spawn(move || announce(request));
        for signal in signals {
            let is_new = match signal {
                // The shell and the system both send it when a terminal closes.
                SIGHUP => false,
                _ => signal != request || began.elapsed() > SAME_REQUEST,
            };
            if is_new {
                // Without destructors, which would run beside threads that still compute.
                low_level::exit(status(signal));
            }
        }
    };
    let thread = thread::Builder::new().name("signals".to_owned());
    thread.spawn(obey).context("listening for signals")?;
    Ok(interrupt)
}

fn announce(request: i32) {
    log::warn!(
        "{}: ending after the current step or batch; {} ends at once",
        low_level::signal_name(request).unwrap_or("signal"),
        match request {
            SIGINT => "another Ctrl-C",
            _ => "another SIGTERM",
        }
    );
}

/// The exit status of a program that a signal has ended.
fn status(signal: i32) -> i32 {
    128 + signal
}

/// Whether the program was started to ignore a signal.
fn is_ignored(signal: i32) -> bool {
    let mut action = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: without a new action this only writes the current one, for which there is place.
    let outcome = unsafe { libc::sigaction(signal, ptr::null(), action.as_mut_ptr()) };
    // SAFETY: all zeros are a value of this type, whatever the call has written.
    let action = unsafe { action.assume_init() };
    outcome == 0 && action.sa_sigaction == libc::SIG_IGN
}
