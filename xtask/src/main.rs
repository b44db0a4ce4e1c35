//! `cargo xtask`: what belongs to the checkout. Build, fetch, train, test, bench and check.
//!
//! Start reading at [`Command`]. `train`, `fetch` of a model and `bench` hand over to the
//! `polyphony` binary, built in release mode; `test` and `ci` are what `.ci/run` runs.

use std::{ffi::OsString, process::ExitCode};

use clap::{Parser, Subcommand};

mod ci;
mod circles;
mod edges;
mod files;
mod fuzz;
mod human_eval;
mod links;
mod names;
mod outside;
mod packages;
mod phrases;
mod process;
mod site;
mod source;
mod test;
mod tools;

use ci::{MissingTools, Scope};

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
    /// Obtains a model by name, such as `smollm2-135m`, and prints its directory; `humaneval` puts
    /// the HumanEval problems into the folder `data`.
    #[command(disable_help_flag = true)]
    Fetch(Passed),
    /// Times one training step and prints it as JSON.
    #[command(disable_help_flag = true)]
    Bench(Passed),
    /// Runs all tests, those in the documentation and the examples included.
    Test,
    /// Tries the package outside of the workspace alone, as `test` does at its end: copied to another
    /// folder, built there, trained, killed, resumed, evaluated, compared and drawn.
    Outside,
    /// Tries inputs that nobody wrote on everything that reads foreign files and answers, to find those
    /// that make it panic, hang or fill the memory: `fuzz [TARGET] [--seconds N] [--jobs N]`.
    Fuzz(fuzz::Plan),
    /// Build the documentation as a static site, API documentation included.
    Docs,
    /// Checks the tree: format, crate edges, circles of files, links, spelling, unused and forbidden
    /// dependencies, packages, lints, documentation, fuzzing. Cheapest first.
    Ci {
        /// Also lets the devices cuda and vulkan compile, and runs tests on wgpu: half an hour more
        /// the first time.
        #[arg(long)]
        devices: bool,
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
    if let Some(code) = fuzz::stands_in_for_rustc() {
        return code;
    }
    let outcome = match Arguments::parse().command {
        Command::Train(passed) => process::polyphony(&["train"], &passed.arguments),
        Command::Fetch(passed) => match passed.arguments.as_slice() {
            [what, rest @ ..] if what == "humaneval" => human_eval::fetch(rest),
            arguments => process::polyphony(&["models", "fetch"], arguments),
        },
        Command::Bench(passed) => process::polyphony(&["bench"], &passed.arguments),
        Command::Test => test::run(),
        Command::Outside => outside::run(),
        Command::Fuzz(plan) => fuzz::run(&plan),
        Command::Docs => ci::metadata().and_then(|metadata| site::run(&metadata)),
        Command::Ci {
            devices,
            allow_missing_tools,
        } => {
            let scope = match devices {
                true => Scope::TreeAndDevices,
                false => Scope::Tree,
            };
            let missing_tools = match allow_missing_tools {
                true => MissingTools::Allow,
                false => MissingTools::Fail,
            };
            ci::run(scope, missing_tools)
        }
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
