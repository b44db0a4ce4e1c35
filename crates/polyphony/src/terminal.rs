//! Writes text to standard error without anything that could control a terminal.
//!
//! Messages quote model files, data, programs and other untrusted text. All messages and logs go through
//! this module, which escapes control characters. [`crate::json_lines`] does the same in JSON.

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    io::{self, Write as _},
    panic::PanicHookInfo,
};

use polyphony_marl::Communicator;
use polyphony_report::{excerpt, visible};

/// Writes a text on standard error.
pub(crate) fn write(text: &str) {
    // If standard error is closed, nobody reads it, so an error is ignored.
    let _ = io::stderr().lock().write_all(visible(text).as_bytes());
}

/// Prints a panic in the same form as Rust does.
pub(crate) fn write_panic(panic: &PanicHookInfo<'_>) {
    let backtrace = Backtrace::capture();
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or("<unnamed>");
    let mut text = format!("\nthread '{thread}' {}\n", excerpt(&panic.to_string()));
    if backtrace.status() == BacktraceStatus::Captured {
        text += &backtrace.to_string();
    }
    write(&text);
}

/// Starts logging to standard error: messages of our crates from level `info`, and those of other crates from
/// level `warn`, unless `RUST_LOG` sets other levels. Ranks other than the first log warnings only. If there are several
/// ranks, each line begins with the number of its rank.
pub(crate) fn start_logging(world: &dyn Communicator) {
    let filter = match world.rank() {
        0 => "warn,polyphony=info",
        _ => "warn",
    };
    let rank = match world.size() {
        1 => String::new(),
        _ => format!("rank {} ", world.rank()),
    };
    let filter = env_logger::Env::default().default_filter_or(filter);
    env_logger::Builder::from_env(filter)
        .format(move |output, record| {
            let level = record.level();
            let style = output.default_level_style(level);
            let message = record.args().to_string();
            let message = visible(&excerpt(&message)).replace('\n', "\n    ");
            let time = output.timestamp();
            writeln!(
                output,
                "[{time} {rank}{style}{level:<5}{style:#}] {message}"
            )
        })
        .init();
}
