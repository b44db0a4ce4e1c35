//! Panics of the tokenizer library become errors.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

thread_local! {
    static CATCHING: Cell<bool> = const { Cell::new(false) };
}

/// Whether a panic of this thread would be caught in here and become an error, as it does where the
/// tokenizer library fails on a tokenizer that it should have refused.
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

/// Does some work of the tokenizer library; a panic is an error as well.
///
/// The work may share a tokenizer: what it changes in there are caches, whose entries are inserted
/// whole.
pub(super) fn contained<T>(work: impl FnOnce() -> tokenizers::Result<T>) -> tokenizers::Result<T> {
    let before = CATCHING.replace(true);
    let outcome = catch_unwind(AssertUnwindSafe(work));
    CATCHING.set(before);
    outcome.unwrap_or_else(|panic| Err(reason(&*panic).into()))
}

fn reason(panic: &(dyn Any + Send)) -> String {
    let message = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    let message = message.unwrap_or("for an unknown reason");
    format!("the tokenizer library panicked: {message}")
}
