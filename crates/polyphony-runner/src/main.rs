//! The `polyphony` command. Everything is in the library; see [`polyphony_runner::cli`].

use std::process::ExitCode;

use mimalloc::MiMalloc;

// Tensors are allocated and freed by the thousand; the system's allocator gives each large one back
// at once and then waits for the kernel to clear the next.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// `mi_option_purge_delay` of mimalloc.h, a constant that the binding does not name.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;

/// As much as the main thread usually has: a worker's default is a quarter of it.
const STACK_BYTES: usize = 8 << 20;

fn main() -> ExitCode {
    // Freed memory is kept for the next step, which needs as much again: half of an update's time
    // would otherwise go into clearing pages. The peak stays the same.
    // SAFETY: the option exists, and may be set at any time.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, -1) };
    // Everything runs on a worker of the pool: work that comes from outside has to wake one worker
    // for each of the hundreds of small parallel loops in a decoding pass, and wait for it.
    let pool = rayon::ThreadPoolBuilder::new()
        .stack_size(STACK_BYTES)
        .build_global();
    if let Err(error) = pool {
        #[expect(clippy::print_stderr, reason = "there is no logger yet")]
        {
            eprintln!("error: the worker threads could not be started: {error}");
        }
        return ExitCode::FAILURE;
    }
    rayon::scope(|_| polyphony_runner::cli::main())
}
