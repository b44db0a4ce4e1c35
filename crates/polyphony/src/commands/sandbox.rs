//! `polyphony sandbox`: checks how this machine can isolate programs, and runs one program in the sandbox.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context as _, Result};
use clap::{Subcommand, ValueEnum};
use polyphony_sandbox::{
    AssertOutcome, Interpreter, Isolation, Program, SandboxConfig, SandboxError, SelfTest,
    SyntaxError, Tests, Tier, Verdict,
};
use serde::Serialize;

use crate::json_lines;

/// The arguments of `polyphony sandbox`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start the sandbox and print the isolation that this machine offers and the results of the self-test.
    Check(Confinement),
    /// Run a program with its tests in the sandbox and print one line with the verdict.
    Run(RunArguments),
}

/// How programs are confined, and which Python runs them.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct Confinement {
    /// Run programs with this Python, instead of the `python3` on the search path.
    #[arg(long, value_name = "FILE")]
    python: Option<PathBuf>,
    /// Choose how programs are confined.
    #[arg(long, value_enum, default_value_t)]
    isolation: IsolationName,
}

/// [`Isolation`], as the command line names it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum IsolationName {
    /// The full tier if this system allows it, else the Landlock tier, else an error.
    #[default]
    Strongest,
    /// The Landlock tier, even if this system allows the full tier.
    Landlock,
    /// No confinement: programs can do whatever you can. Only for code that you trust.
    Off,
}

#[derive(Debug, clap::Args)]
struct RunArguments {
    /// Run the program in this file.
    #[arg(long, value_name = "FILE")]
    solution: PathBuf,
    /// Run the tests in this file, which define `check(candidate)`.
    #[arg(long, value_name = "FILE")]
    tests: PathBuf,
    /// Test this function of the program.
    #[arg(long, value_name = "NAME")]
    entry: String,
    #[command(flatten)]
    confinement: Confinement,
}

/// The output of `check`.
#[derive(Serialize)]
struct CheckOutput<'a> {
    tier: Tier,
    interpreter: &'a Interpreter,
    self_test: &'a SelfTest,
}

/// The output of `run`.
#[derive(Serialize)]
struct RunOutput {
    verdict: &'static str,
    asserts: Vec<AssertOutcome>,
    seconds: f64,
    tier: Tier,
    #[serde(skip_serializing_if = "Option::is_none")]
    syntax_error: Option<SyntaxError>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// Runs the subcommand and prints one line.
pub(crate) fn run(arguments: &Arguments, output: &mut dyn Write) -> Result<()> {
    match &arguments.command {
        Command::Check(confinement) => {
            let pool = polyphony_env::start_pool(&confinement.settings())?;
            let check_output = CheckOutput {
                tier: pool.tier(),
                interpreter: pool.interpreter(),
                self_test: pool.self_test(),
            };
            json_lines::write(output, &check_output)
        }
        Command::Run(arguments) => run_program(arguments, output),
    }
}

impl Confinement {
    /// Whether no option was given.
    pub(crate) fn is_default(&self) -> bool {
        self.python.is_none() && self.isolation == IsolationName::default()
    }

    /// The settings of the sandbox.
    pub(crate) fn settings(&self) -> SandboxConfig {
        SandboxConfig {
            interpreter: self.python.clone(),
            isolation: match self.isolation {
                IsolationName::Strongest => Isolation::Strongest,
                IsolationName::Landlock => Isolation::Landlock,
                IsolationName::Off => Isolation::Off,
            },
            ..SandboxConfig::default()
        }
    }
}

fn run_program(arguments: &RunArguments, output: &mut dyn Write) -> Result<()> {
    let program = Program {
        source: read(&arguments.solution)?,
        entry_point: arguments.entry.clone(),
    };
    let tests = Tests {
        setup: String::new(),
        source: read(&arguments.tests)?,
    };
    let pool = polyphony_env::start_pool(&arguments.confinement.settings())?;
    let start = Instant::now();
    let run_output = match pool.run(&program, &tests) {
        Ok(result) => RunOutput {
            verdict: result.verdict.name(),
            asserts: result.asserts,
            seconds: result.seconds,
            tier: result.tier,
            syntax_error: result.syntax_error,
            reason: None,
        },
        Err(SandboxError::Infrastructure { reason, .. }) => RunOutput {
            verdict: Verdict::Infrastructure {
                reason: reason.clone(),
            }
            .name(),
            asserts: Vec::new(),
            seconds: start.elapsed().as_secs_f64(),
            tier: pool.tier(),
            syntax_error: None,
            reason: Some(reason),
        },
        Err(error) => return Err(error.into()),
    };
    json_lines::write(output, &run_output)
}

/// The text of a file, which must be UTF-8.
fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::commands::parse;

    fn print(words: &[&str]) -> Result<Value, String> {
        let mut output = Vec::new();
        run(&parse(words), &mut output).map_err(|error| format!("{error:#}"))?;
        assert_eq!(output.iter().filter(|&&byte| byte == b'\n').count(), 1);
        Ok(serde_json::from_slice(&output).unwrap())
    }

    #[test]
    fn one_line_has_the_verdict_of_program_and_asserts() {
        let rows = [
            (
                "def twice(x):\n    return 2 * x\n",
                "passed",
                ["passed", "passed"],
            ),
            (
                "def twice(x):\n    return x + 2\n",
                "failed",
                ["passed", "failed"],
            ),
            (
                "def twice(x):\n    import socket; socket.socket()\n",
                "violation",
                ["violation"; 2],
            ),
            ("def twice(x)\n", "failed", ["failed", "failed"]),
        ];
        let tests =
            "def check(candidate):\n    assert candidate(2) == 4\n    assert candidate(3) == 6\n";
        for (source, verdict, asserts) in rows {
            let folder = tempfile::tempdir().unwrap();
            let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
            fs::write(path("f.py"), source).unwrap();
            fs::write(path("t.py"), tests).unwrap();
            let (solution, tests) = (path("f.py"), path("t.py"));
            let words = [
                "run",
                "--solution",
                &solution,
                "--tests",
                &tests,
                "--entry",
                "twice",
            ];
            let printed = print(&words).unwrap();
            assert_eq!(printed["verdict"], verdict, "{source}");
            let each = printed["asserts"].as_array().unwrap();
            let each: Vec<&Value> = each.iter().map(|assert| &assert["verdict"]).collect();
            assert_eq!(each, asserts, "{source}");
            assert!(printed["seconds"].as_f64().unwrap() > 0.0);
            assert!(["full", "landlock"].contains(&printed["tier"].as_str().unwrap()));
            assert_eq!(
                printed.get("syntax_error").is_some(),
                !source.contains(':'),
                "{source}"
            );
        }
    }

    #[test]
    fn the_check_prints_tier_python_and_the_steps_of_the_self_test() {
        for isolation in ["strongest", "landlock"] {
            let printed = print(&["check", "--isolation", isolation]).unwrap();
            assert_eq!(printed["tier"], printed["self_test"]["tier"]);
            if isolation == "landlock" {
                assert_eq!(printed["tier"], "landlock");
            }
            assert!(
                printed["interpreter"]["version"]
                    .as_str()
                    .unwrap()
                    .starts_with("3.")
            );
            assert!(printed["self_test"]["steps"].as_array().unwrap().len() >= 7);
        }
        let message = print(&["check", "--python", "/no/python"]).unwrap_err();
        assert!(message.contains("`/no/python`"), "{message}");
    }
}
