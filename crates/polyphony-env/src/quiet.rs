//! Decoders and parsers that panic on some input instead of returning an error.

use std::{
    any::Any,
    cell::Cell,
    panic::{self, UnwindSafe},
};

thread_local! {
    static CATCHING: Cell<bool> = const { Cell::new(false) };
}

/// Whether a panic of this thread would be caught in here and become an error, as it does where a
/// decoder asserts that its input is whole.
///
/// This library installs no panic hook, so such a panic appears on standard error as any other does. A
/// program that wants it quiet asks in a hook of its own:
///
/// ```
/// let usual = std::panic::take_hook();
/// std::panic::set_hook(Box::new(move |panic| {
///     if !polyphony_env::catches_panics() {
///         usual(panic);
///     }
/// }));
/// ```
pub fn catches_panics() -> bool {
    CATCHING.get()
}

/// Does some work and gives back what it panicked with.
pub(crate) fn caught<T>(work: impl FnOnce() -> T + UnwindSafe) -> Result<T, Box<dyn Any + Send>> {
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
        static SEEN: AtomicUsize = AtomicUsize::new(0);
        let this = thread::current().id();
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            if thread::current().id() == this && catches_panics() {
                SEEN.fetch_add(1, Ordering::Relaxed);
            } else {
                usual(panic);
            }
        }));
        assert!(!catches_panics());
        for before in 0..2 {
            assert!(caught(|| panic!("damaged")).is_err());
            // The hook is still there: nothing in here has put another in its place.
            assert_eq!(SEEN.load(Ordering::Relaxed), before + 1);
            assert!(!catches_panics());
        }
        assert_eq!(
            caught(|| (catches_panics(), caught(|| 1).ok(), catches_panics())).ok(),
            Some((true, Some(1), true))
        );
    }
}
