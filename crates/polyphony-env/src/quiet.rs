//! Decoders and parsers that panic on some input instead of returning an error.

use std::{
    any::Any,
    cell::Cell,
    panic::{self, UnwindSafe},
    sync::Once,
};

/// Does some work and gives back what it panicked with, of which nothing appears on standard error.
pub(crate) fn quietly<T>(work: impl FnOnce() -> T + UnwindSafe) -> Result<T, Box<dyn Any + Send>> {
    thread_local! {
        static QUIET: Cell<bool> = const { Cell::new(false) };
    }
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            if !QUIET.get() {
                usual(panic);
            }
        }));
    });
    QUIET.set(true);
    let outcome = panic::catch_unwind(work);
    QUIET.set(false);
    outcome
}
