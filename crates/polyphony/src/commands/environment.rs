//! `polyphony environment`: lists environments, and checks external environment programs.

use std::{io::Write, path::PathBuf};

use anyhow::{Context as _, Result, ensure};
use clap::Subcommand;
use polyphony_env::{Process, check_process};
use polyphony_report::visible;
use polyphony_runner::Registry;
use serde_json::{Map, Value, json};

use crate::json_lines;

/// The arguments of `polyphony environment`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Play a few episodes with made-up answers against a program that speaks the protocol of `Process`,
    /// and report what is wrong.
    Check(Check),
}

#[derive(Debug, clap::Args)]
struct Check {
    /// Start this program with its arguments, given as a JSON list: `["python3", "game.py"]`.
    #[arg(long, value_name = "LIST")]
    command: String,
    /// Pass these settings to the program, given as a JSON object: `{"digits": 4}`.
    #[arg(long, value_name = "OBJECT", default_value = "{}")]
    settings: String,
    /// Run the program in this directory, instead of the current one.
    #[arg(long, value_name = "DIR")]
    cwd: Option<PathBuf>,
    /// Play the tasks in this file of JSON lines (also gzipped) or Parquet, instead of the program's own.
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
        None => list(registry, output),
        Some(Command::Check(check)) => check_program(registry, check, output),
    }
}

fn list(registry: &Registry, output: &mut dyn Write) -> Result<()> {
    for name in registry.environment_names() {
        json_lines::write(output, &json!({ "name": name }))?;
    }
    if let Some(name) = registry.single_agent_name() {
        let wraps = "any of the others, for a single agent";
        json_lines::write(output, &json!({ "name": name, "wraps": wraps }))?;
    }
    Ok(())
}

fn check_program(registry: &Registry, check: &Check, output: &mut dyn Write) -> Result<()> {
    let command: Vec<String> = serde_json::from_str(&check.command).with_context(|| {
        format!(
            "--command is {}, but must be a JSON list of texts, as in '[\"python3\", \"game.py\"]'",
            check.command
        )
    })?;
    let settings: Map<String, Value> =
        serde_json::from_str(&check.settings).with_context(|| {
            format!(
                "--settings is {}, but must be a JSON object, as in '{{\"digits\": 4}}'",
                check.settings
            )
        })?;
    let tasks = match &check.tasks {
        Some(path) => Some(super::load_tasks(registry, path)?),
        None => None,
    };
    let program = Process {
        settings,
        cwd: check.cwd.clone(),
        ..Process::new(command)
    };
    let report = check_process(&program, tasks)?;
    write!(output, "{}", visible(&report.to_string())).context("writing results")?;
    ensure!(
        report.is_fine(),
        "the program does not follow the protocol; the report says where"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::standard::registry;

    #[test]
    fn every_environment_is_listed_and_the_wrapper_too() {
        let mut output = Vec::new();
        let arguments = Arguments { command: None };
        run(&registry(), &arguments, &mut output).unwrap();
        let lines = String::from_utf8(output).unwrap();
        let names: Vec<Value> = lines
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap()["name"].take())
            .collect();
        assert_eq!(names, ["Tldr", "Arxiv", "Coding", "Process", "SingleAgent"]);
    }

    /// A program that works only with the right setting, and only in the directory of its file.
    const PROGRAM: &str = r#"
import json, sys
for line in sys.stdin:
    call = json.loads(line)
    if call["call"] == "hello":
        parts = ["digits"] * (call["settings"]["digits"] == 4)
        tasks = [json.loads(line) for line in open("tasks.jsonl")]
        answer = {"protocol": 1, "roles": [{"name": "a"}], "reward_parts": parts, "tasks": {"train": tasks}}
    elif call["call"] == "start":
        answer = {"observations": ["go"]}
    else:
        answer = {"reward": {"digits": 1}, "end": True}
    print(json.dumps({"id": call["id"], **answer}), flush=True)
"#;

    /// The output of checking the program, or the error.
    fn check(settings: &str, cwd: Option<PathBuf>) -> Result<String> {
        let arguments = Arguments {
            command: Some(Command::Check(Check {
                command: json!(["python3", "-c", PROGRAM]).to_string(),
                settings: settings.to_owned(),
                cwd,
                tasks: None,
            })),
        };
        let mut output = Vec::new();
        run(&registry(), &arguments, &mut output)?;
        Ok(String::from_utf8(output)?)
    }

    #[test]
    fn a_program_is_checked_with_its_settings_in_its_directory() {
        let folder = tempfile::tempdir().unwrap();
        let task = r#"{"id": "t", "fields": {}}"#;
        std::fs::write(folder.path().join("tasks.jsonl"), task).unwrap();
        let cwd = || Some(folder.path().to_owned());
        let report = check(r#"{"digits": 4}"#, cwd()).unwrap();
        assert!(report.ends_with("Nothing is wrong.\n"), "{report}");
        let note = "note   no tasks of its own for `held_out`";
        assert!(report.contains(note), "{report}");
        for (settings, cwd, expected) in [
            ("{}", cwd(), "KeyError: 'digits'"),
            (
                r#"{"digits": 4}"#,
                None,
                "No such file or directory: 'tasks.jsonl'",
            ),
            ("4", cwd(), "--settings is 4, but must be a JSON object"),
        ] {
            let error = check(settings, cwd).unwrap_err();
            assert!(format!("{error:#}").contains(expected), "{error:#}");
        }
    }
}
