//! Turns panics of libraries into errors, since some of them panic on damaged files.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

thread_local! {
    static CATCHING: Cell<bool> = const { Cell::new(false) };
}

/// Whether a panic of this thread would now be caught in this crate and become an error. That is so
/// while the tokenizer library or the template engine works on a file.
///
/// This library installs no panic hook, so even a caught panic is printed to standard error. A program
/// can suppress that output in its own hook:
///
/// ```
/// let default_hook = std::panic::take_hook();
/// std::panic::set_hook(Box::new(move |panic| {
///     if !polyphony_model::is_catching_panic() {
///         default_hook(panic);
///     }
/// }));
/// ```
pub fn is_catching_panic() -> bool {
    CATCHING.get()
}

/// Calls a library; the error is the message of a panic. Values that the call changes must not be used
/// after a panic, unless the library keeps them consistent.
pub(super) fn catch_panic<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    let before = CATCHING.replace(true);
    let outcome = catch_unwind(AssertUnwindSafe(work));
    CATCHING.set(before);
    outcome.map_err(|panic| message(&*panic))
}

fn message(panic: &(dyn Any + Send)) -> String {
    let message = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    message.unwrap_or("for an unknown reason").to_owned()
}
