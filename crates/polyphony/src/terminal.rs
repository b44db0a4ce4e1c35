//! Text on its way to standard error, where a terminal may obey it.
//!
//! Messages quote model files, data, programs and other things from strangers. Everything that is not JSON goes
//! through here: what controls a terminal is escaped. [`crate::json_lines`] does the same in JSON.

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    io::{self, Write as _},
    panic::PanicHookInfo,
};

use polyphony_report::{excerpt, visible};

/// Writes a text on standard error.
pub(crate) fn write(text: &str) {
    // Nobody reads it if standard error is closed.
    let _ = io::stderr().lock().write_all(visible(text).as_bytes());
}

/// Reports a panic as Rust does.
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

/// Logs to standard error: our messages from `info` on, those of other crates from `warn` on, unless
/// `RUST_LOG` says otherwise.
pub(crate) fn start_logging() {
    let choice = env_logger::Env::default().default_filter_or("warn,polyphony=info");
    env_logger::Builder::from_env(choice)
        .format(|output, record| {
            let level = record.level();
            let style = output.default_level_style(level);
            let message = record.args().to_string();
            let message = visible(&excerpt(&message)).replace('\n', "\n    ");
            let time = output.timestamp();
            writeln!(output, "[{time} {style}{level:<5}{style:#}] {message}")
        })
        .init();
}
