//! The `polyphony` command, with everything that ships and no additions.

use std::process::ExitCode;

fn main() -> ExitCode {
    polyphony::Program::standard().main()
}
