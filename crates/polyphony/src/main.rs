//! The `polyphony` command: everything that ships, and nothing else.

use std::process::ExitCode;

fn main() -> ExitCode {
    polyphony::Program::standard().main()
}
