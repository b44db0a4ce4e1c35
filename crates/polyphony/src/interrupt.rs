//! Signals that end a run: the first one asks for an orderly end, the next one ends the program at once.

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

/// One request may send a signal twice: `timeout` sends it to the program and then to its process group.
const SAME_REQUEST: Duration = Duration::from_millis(200);

/// The signal that asked a run to end; 0 if there was none.
#[derive(Debug, Default)]
pub(crate) struct Interrupt(Arc<AtomicI32>);

impl Interrupt {
    /// The exit status of a run that has ended in an orderly way. It is 0 after Ctrl-C, because the user sees
    /// how the run ended. A scheduler that ends a job expects the status of a program killed by its signal.
    pub(crate) fn status(&self) -> ExitCode {
        match self.0.load(Ordering::SeqCst) {
            0 | SIGINT => ExitCode::SUCCESS,
            signal => ExitCode::from(status(signal) as u8),
        }
    }
}

/// Listens for signals until the program ends. The first signal requests `stop`.
///
/// # Errors
/// If the system does not let the program listen.
pub(crate) fn listen(stop: &Stop) -> Result<Interrupt> {
    // A signal that was ignored at the start stays ignored: `nohup` and the `&` of a script rely on that.
    let ending_signals = [SIGINT, SIGTERM, SIGHUP].into_iter();
    let heeded = ending_signals.filter(|signal| !is_ignored(*signal));
    let mut signals = Signals::new(heeded).context("listening for signals")?;
    let interrupt = Interrupt::default();
    let first_signal = Arc::clone(&interrupt.0);
    let stop = stop.clone();
    let handle_signals = move || {
        let mut signals = signals.forever();
        let Some(request) = signals.next() else {
            return;
        };
        let requested_at = Instant::now();
        first_signal.store(request, Ordering::SeqCst);
        stop.request();
        // Logged on a separate thread, because a paused terminal (Ctrl-S) would block this one.
        thread::spawn(move || announce(request));
        for signal in signals {
            let is_new = match signal {
                // The shell and the system both send it when a terminal closes.
                SIGHUP => false,
                _ => signal != request || requested_at.elapsed() > SAME_REQUEST,
            };
            if is_new {
                // Exits without destructors, which would run while other threads still compute.
                low_level::exit(status(signal));
            }
        }
    };
    let thread = thread::Builder::new().name("signals".to_owned());
    thread
        .spawn(handle_signals)
        .context("listening for signals")?;
    Ok(interrupt)
}

fn announce(request: i32) {
    log::warn!(
        "{}: ending after the current step or batch; {} ends at once",
        low_level::signal_name(request).unwrap_or("signal"),
        match request {
            SIGINT => "another Ctrl-C",
            SIGTERM => "another SIGTERM",
            // A second SIGHUP is ignored.
            _ => "Ctrl-C or SIGTERM",
        }
    );
}

/// The exit status of a program that was killed by a signal.
fn status(signal: i32) -> i32 {
    128 + signal
}

/// Whether the program was started to ignore a signal.
fn is_ignored(signal: i32) -> bool {
    let mut action = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: without a new action, this only writes the current one to `action`, which is large enough.
    let outcome = unsafe { libc::sigaction(signal, ptr::null(), action.as_mut_ptr()) };
    // SAFETY: all zeros are a valid value of this type, and the call writes only valid values.
    let action = unsafe { action.assume_init() };
    outcome == 0 && action.sa_sigaction == libc::SIG_IGN
}
