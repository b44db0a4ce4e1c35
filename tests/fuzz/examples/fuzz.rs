//! Runs the targets with libFuzzer. `cargo xtask fuzz` builds and starts this program, and sets environment
//! variables that select the target and its folder.
#![no_main]

use std::{path::PathBuf, process, sync::OnceLock, time::Duration};

use libfuzzer_sys::fuzz_target;
use polyphony_fuzz::{Target, find};
use rustix::time::{ClockId, clock_gettime};

/// The most CPU time that an input may take. The engine's own limit counts wall-clock time, which on a busy
/// machine says little about the input.
const MAX_CPU: Duration = Duration::from_secs(5);

/// The target of this process and its folder.
static WORK: OnceLock<(&'static Target, PathBuf)> = OnceLock::new();

fuzz_target!(init: start(), |bytes: &[u8]| {
    if let Some((target, folder)) = WORK.get() {
        let start = cpu_time();
        (target.run)(folder, bytes);
        let used = cpu_time() - start;
        assert!(used <= MAX_CPU, "the input takes {used:?} of CPU time");
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

/// The CPU time of this process so far, over all its threads.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::try_from(time).unwrap_or_default()
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
