//! `polyphony environment`: lists environments, and checks external programs that are environments.

use std::{io::Write, path::PathBuf};

use anyhow::{Context as _, Result, ensure};
use clap::Subcommand;
use polyphony_env::{Process, check_process};
use polyphony_runner::Registry;
use serde_json::json;

use crate::json_lines;

/// The arguments of `polyphony environment`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Plays a few episodes with made-up answers against a program that speaks the protocol of
    /// `Process`, and reports what is wrong.
    Check(Check),
}

#[derive(Debug, clap::Args)]
struct Check {
    /// The program and its arguments, as a JSON list: `[\"python3\", \"game.py\"]`.
    #[arg(long, value_name = "LIST")]
    command: String,
    /// Tasks to play: a file of JSON lines (also gzipped) or Parquet; by default the program's own.
    #[arg(long, value_name = "FILE")]
    tasks: Option<PathBuf>,
}

/// Lists the environments, one per line, or checks a program.
pub(crate) fn run(
    registry: &Registry,
    arguments: &Arguments,
    output: &mut dyn Write,
) -> Result<()> {
    match &arguments.command {
        None => registry
            .environment_names()
            .into_iter()
            .try_for_each(|name| json_lines::write(output, &json!({ "name": name }))),
        Some(Command::Check(check)) => check_program(registry, check, output),
    }
}

fn check_program(registry: &Registry, check: &Check, output: &mut dyn Write) -> Result<()> {
    let command: Vec<String> = serde_json::from_str(&check.command).with_context(|| {
        format!(
            "--command is {}, but must be a JSON list of texts, as in '[\"python3\", \"game.py\"]'",
            check.command
        )
    })?;
    let tasks = match &check.tasks {
        Some(path) => Some(super::load_tasks(registry, path)?),
        None => None,
    };
    let report = check_process(&Process::new(command), tasks)?;
    write!(output, "{report}").context("writing results")?;
    ensure!(
        report.is_fine(),
        "the program does not follow the protocol; the report says where"
    );
    Ok(())
}
