//! The `polyphony` command, for the tests beside it to run.

use std::process::ExitCode;

fn main() -> ExitCode {
    polyphony_runner::cli::main()
}
