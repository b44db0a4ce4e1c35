//! `cargo xtask`: what belongs to the checkout. Build, fetch, train, test, bench and check.
//!
//! Start reading at [`Command`]. `train`, `fetch` and `bench` hand over to the `polyphony` binary,
//! built in release mode; `test` and `ci` are what `.ci/run` runs.

use std::{ffi::OsString, process::ExitCode};

use clap::{Parser, Subcommand};

mod ci;
mod edges;
mod process;
mod test;
mod tools;

use ci::MissingTools;

/// Everything that is done with a checkout of Polyphony.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Trains a recipe: `train [RECIPE] [--set path=value]… [--run-dir DIR] [--steps N]`.
    #[command(disable_help_flag = true)]
    Train(Passed),
    /// Obtains a model by name, such as `smollm2-135m`, and prints its directory.
    #[command(disable_help_flag = true)]
    Fetch(Passed),
    /// Times one training step and prints it as JSON.
    #[command(disable_help_flag = true)]
    Bench(Passed),
    /// Runs all tests, those in the documentation and the examples included.
    Test,
    /// Checks the tree: format, crate edges, spelling, unused and forbidden dependencies, lints,
    /// documentation, and the devices beside the processor. Cheapest first.
    Ci {
        /// Passes over checks whose tools cannot be had, in place of failing.
        #[arg(long)]
        allow_missing_tools: bool,
    },
}

/// Arguments for the `polyphony` binary, passed on as they are.
#[derive(Debug, clap::Args)]
struct Passed {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Train(passed) => process::polyphony(&["train"], &passed.arguments),
        Command::Fetch(passed) => process::polyphony(&["models", "fetch"], &passed.arguments),
        Command::Bench(passed) => process::polyphony(&["bench"], &passed.arguments),
        Command::Test => test::run(),
        Command::Ci {
            allow_missing_tools,
        } => ci::run(match allow_missing_tools {
            true => MissingTools::Allow,
            false => MissingTools::Fail,
        }),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            process::say(format_args!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn flags_of_the_binary_pass_through_untouched() {
        let line = [
            "cargo xtask",
            "train",
            "mine.ron",
            "--set",
            "a.b=1",
            "--steps",
            "5",
            "--help",
        ];
        let Command::Train(passed) = Arguments::parse_from(line).command else {
            panic!("`train` was read as another command");
        };
        assert_eq!(passed.arguments, line[2..]);
    }
}
