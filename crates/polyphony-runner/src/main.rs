//! The `polyphony` command. Everything is in the library; see [`polyphony_runner::cli`].

use std::process::ExitCode;

use mimalloc::MiMalloc;

// Tensors are allocated and freed by the thousand; the system's allocator gives each large one back
// at once and then waits for the kernel to clear the next.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    polyphony_runner::cli::main()
}
