//! Libraries that panic on some files instead of returning an error.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

thread_local! {
    static CATCHING: Cell<bool> = const { Cell::new(false) };
}

/// Whether a panic of this thread would be caught in here and become an error, as it does if the
/// tokenizer library or the template engine fails on a file that it should have refused.
///
/// This library installs no panic hook, so such a panic appears on standard error as any other
/// does. A program that wants it quiet asks in a hook of its own:
///
/// ```
/// let usual = std::panic::take_hook();
/// std::panic::set_hook(Box::new(move |panic| {
///     if !polyphony_model::catches_panics() {
///         usual(panic);
///     }
/// }));
/// ```
pub fn catches_panics() -> bool {
    CATCHING.get()
}

/// Does some work of a library; the error is the message of a panic. What the work changes must not be
/// used after a panic, unless the library leaves it whole.
pub(super) fn caught<T>(work: impl FnOnce() -> T) -> Result<T, String> {
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
