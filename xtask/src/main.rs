//! `cargo xtask`: the tasks of a checkout. Build, fetch, train, test, bench and check.
//!
//! Start reading at [`Command`]. `train`, `bench` and `fetch MODEL` run the `polyphony` binary, built in
//! release mode. `.ci/run` runs `test` and `ci`.

use std::{ffi::OsString, process::ExitCode};

use clap::{Parser, Subcommand};

mod ci;
mod circles;
mod cuda;
mod edges;
mod files;
mod fuzz;
mod human_eval;
mod links;
mod mpi;
mod names;
mod outside;
mod packages;
mod peers;
mod phrases;
mod process;
mod site;
mod source;
mod test;
mod tools;

use ci::{MissingTools, Scope};

/// Build, fetch, train, test, bench and check a checkout of Polyphony.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Train a team from a recipe: `train [RECIPE] [--set path=value]… [--run-dir DIR] [--steps N]`.
    #[command(disable_help_flag = true)]
    Train(PolyphonyArguments),
    /// Download a model by name, such as `smollm2-135m`, and print its directory; `humaneval` downloads the
    /// HumanEval problems into the folder `data`.
    #[command(disable_help_flag = true)]
    Fetch(PolyphonyArguments),
    /// Measure the time of training steps and print it as JSON.
    #[command(disable_help_flag = true)]
    Bench(PolyphonyArguments),
    /// Time Polyphony beside comlrl, transformers and llama.cpp on this machine, and print a table:
    /// `compare-peers [--only PARTS] [--quick] [--json FILE]`. The first call installs the peers with `pip`.
    ComparePeers(peers::Plan),
    /// Run all tests, including those in the documentation, and then all examples.
    Test,
    /// Test only the example package outside of the workspace, as `test` does at its end: copy the package to
    /// another folder, build it there, train, kill, resume, evaluate, compare and report.
    Outside,
    /// Fuzz all code that reads untrusted files and answers, to find inputs that make the code panic, hang or
    /// fill the memory: `fuzz [TARGET] [--seconds N] [--jobs N]`.
    Fuzz(fuzz::Plan),
    /// Build the documentation as a static site, API documentation included.
    Docs,
    /// Check the tree, cheapest checks first: format, crate edges, circles of files, names that the runner
    /// must not know, metadata of packages, links, phrases, spelling, unused and forbidden dependencies,
    /// packages, lints, documentation, fuzzing.
    Ci {
        /// Also compile for the devices cuda and vulkan, and run tests on wgpu. This takes a quarter of
        /// an hour more the first time.
        #[arg(long)]
        devices: bool,
        /// Skip checks whose tools cannot be installed, instead of failing.
        #[arg(long)]
        allow_missing_tools: bool,
    },
}

/// Arguments that are passed to the `polyphony` binary unchanged.
#[derive(Debug, clap::Args)]
struct PolyphonyArguments {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

fn main() -> ExitCode {
    if let Some(code) = fuzz::stands_in_for_rustc() {
        return code;
    }
    let outcome = match Arguments::parse().command {
        Command::Train(options) => process::polyphony(&["train"], &options.arguments),
        Command::Fetch(options) => match options.arguments.as_slice() {
            [name, rest @ ..] if name == "humaneval" => human_eval::fetch(rest),
            arguments => process::polyphony(&["models", "fetch"], arguments),
        },
        Command::Bench(options) => process::polyphony(&["bench"], &options.arguments),
        Command::ComparePeers(plan) => peers::run(&plan),
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
    fn options_of_the_binary_are_passed_on_unchanged() {
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
        let Command::Train(options) = Arguments::parse_from(line).command else {
            panic!("`train` was read as another command");
        };
        assert_eq!(options.arguments, line[2..]);
    }
}
