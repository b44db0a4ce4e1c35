//! Catches the panics of decoders and parsers that panic on some input instead of returning an error.

use std::{
    any::Any,
    cell::Cell,
    panic::{self, UnwindSafe},
};

thread_local! {
    static CATCHING: Cell<bool> = const { Cell::new(false) };
}

/// Whether this crate would catch a panic of the current thread and turn it into an error. It does so
/// around the Parquet decoder and the Python parser, which panic on some input.
///
/// This library installs no panic hook, so such a panic is printed on standard error like any other.
/// A program that wants to silence such panics calls this function in a hook of its own:
///
/// ```
/// let usual = std::panic::take_hook();
/// std::panic::set_hook(Box::new(move |panic| {
///     if !polyphony_env::is_catching_panic() {
///         usual(panic);
///     }
/// }));
/// ```
pub fn is_catching_panic() -> bool {
    CATCHING.get()
}

/// Runs `work`; returns the payload if it panics.
pub(crate) fn catch_panic<T>(
    work: impl FnOnce() -> T + UnwindSafe,
) -> Result<T, Box<dyn Any + Send>> {
    let before = CATCHING.replace(true);
    let outcome = panic::catch_unwind(work);
    CATCHING.set(before);
    outcome
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        thread,
    };

    use super::*;

    #[test]
    fn a_hook_of_the_program_sees_that_a_panic_is_caught() {
        static CAUGHT_PANICS: AtomicUsize = AtomicUsize::new(0);
        let this = thread::current().id();
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            if thread::current().id() == this && is_catching_panic() {
                CAUGHT_PANICS.fetch_add(1, Ordering::Relaxed);
            } else {
                usual(panic);
            }
        }));
        assert!(!is_catching_panic());
        for before in 0..2 {
            assert!(catch_panic(|| panic!("damaged")).is_err());
            // The hook is still there: nothing in this crate has replaced it.
            assert_eq!(CAUGHT_PANICS.load(Ordering::Relaxed), before + 1);
            assert!(!is_catching_panic());
        }
        assert_eq!(
            catch_panic(|| (
                is_catching_panic(),
                catch_panic(|| 1).ok(),
                is_catching_panic()
            ))
            .ok(),
            Some((true, Some(1), true))
        );
    }
}
