//! Runs the targets with libFuzzer. `cargo xtask fuzz` builds and starts this program, and sets environment
//! variables that select the target and its folder.
#![no_main]

use std::{path::PathBuf, process, sync::OnceLock};

use libfuzzer_sys::fuzz_target;
use polyphony_fuzz::{Target, find};

/// The target of this process and its folder.
static WORK: OnceLock<(&'static Target, PathBuf)> = OnceLock::new();

fuzz_target!(init: start(), |bytes: &[u8]| {
    if let Some((target, folder)) = WORK.get() {
        target.check(folder, bytes);
    }
});

fn start() {
    abort_on_panics();
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let Some(target) = find(&variable("POLYPHONY_FUZZ_TARGET")) else {
        panic!("POLYPHONY_FUZZ_TARGET names no target");
    };
    let folder = PathBuf::from(variable("POLYPHONY_FUZZ_FOLDER"));
    (target.prepare)(&folder);
    WORK.get_or_init(|| (target, folder));
}

/// Aborts on panics, which libFuzzer counts as crashes, but not on panics that our crates catch: those are
/// errors like any other. The hook of libFuzzer would abort on every panic.
fn abort_on_panics() {
    drop(std::panic::take_hook());
    let default_hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !(polyphony_env::is_catching_panic() || polyphony_model::is_catching_panic()) {
            default_hook(panic);
            process::abort();
        }
    }));
}
