//! `polyphony score`: the reward of texts, whoever wrote them.

use std::{collections::HashMap, io::Write, path::PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use clap::ValueEnum;
use polyphony_env::{CodingSettings, Source};
use polyphony_episode::{Environment, JointAction, Response, Task};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{commands::sandbox::Confinement, environment::EnvironmentKind, json_lines};

/// The arguments of `polyphony score`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Whose reward.
    #[arg(long = "env")]
    environment: Named,
    /// For `coding`: the problems, a file of JSON lines (also gzipped) or Parquet with `task_id`,
    /// `prompt`, `entry_point` and `test`.
    #[arg(long, value_name = "FILE")]
    tasks: Option<PathBuf>,
    /// JSON lines with `responses`, a list of one text for each agent, and for `coding` with
    /// `task_id`; `-` is standard input.
    #[arg(long)]
    input: PathBuf,
    #[command(flatten)]
    confinement: Confinement,
}

/// The environments, as the command line names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Named {
    /// A concise and a detailed summary of a post.
    Tldr,
    /// Background and method from an abstract.
    Arxiv,
    /// A helper function and the function that solves a Python problem with it.
    Coding,
}

#[derive(Deserialize)]
struct Texts {
    task_id: Option<String>,
    responses: Vec<String>,
}

#[derive(Serialize)]
struct Score {
    reward: f64,
    parts: Map<String, Value>,
}

/// Prints the reward and its parts for every line of the input.
pub(crate) fn run(arguments: &Arguments, output: &mut dyn Write) -> Result<()> {
    let tasks = arguments.tasks()?;
    let kind = match arguments.environment {
        Named::Tldr => EnvironmentKind::Tldr,
        Named::Arxiv => EnvironmentKind::Arxiv,
        Named::Coding => EnvironmentKind::Coding {
            settings: CodingSettings::default(),
            sandbox: arguments.confinement.settings(),
        },
    };
    let environment = kind.build()?.environment;
    json_lines::answer(&arguments.input, output, |index, texts: Texts| {
        let task = match &tasks {
            Some(tasks) => find(tasks, texts.task_id.as_deref())?,
            // The reward of texts depends on nothing else.
            None => &Task::new(index.to_string(), [("", ""); 0]),
        };
        score(environment.as_ref(), task, texts.responses)
    })
}

impl Arguments {
    /// The tasks by their identifiers, for an environment whose reward depends on the task.
    fn tasks(&self) -> Result<Option<HashMap<String, Task>>> {
        let path = match (self.environment, &self.tasks) {
            (Named::Tldr | Named::Arxiv, None) => return Ok(None),
            (Named::Tldr | Named::Arxiv, Some(_)) => {
                bail!("--tasks is for `--env coding` alone: rewards of texts need no tasks")
            }
            (Named::Coding, None) => bail!(
                "`--env coding` needs --tasks FILE with the problems, such as the \
                 data/HumanEval.jsonl.gz that `cargo xtask fetch humaneval` brings"
            ),
            (Named::Coding, Some(path)) => path,
        };
        let source = Source::Problems {
            path: path.clone(),
            skip: 0,
            limit: None,
        };
        let tasks = source.load().context("loading --tasks")?;
        let by_id = tasks.into_iter().map(|task| (task.id.clone(), task));
        Ok(Some(by_id.collect()))
    }
}

/// The task that a line names.
fn find<'a>(tasks: &'a HashMap<String, Task>, id: Option<&str>) -> Result<&'a Task> {
    let id = id.context("`task_id` is missing: give the identifier of a task in --tasks")?;
    tasks
        .get(id)
        .with_context(|| format!("`task_id` is `{id}`, but no task in --tasks is called so"))
}

fn score(environment: &dyn Environment, task: &Task, responses: Vec<String>) -> Result<Score> {
    let (given, roles) = (responses.len(), environment.roles());
    let names: Vec<&str> = roles.iter().map(|role| role.name.as_str()).collect();
    ensure!(
        given == roles.len(),
        "`responses` holds {given} texts, but must hold {}, one for each role: {}",
        roles.len(),
        names.join(", ")
    );
    let action = JointAction::new(responses.into_iter().map(Response::from_text).collect());
    let reward = environment.step(task, &[], &action)?.reward;
    let parts = reward
        .parts()
        .map(|(name, value)| (name.to_owned(), value.into()))
        .collect();
    Ok(Score {
        reward: reward.total(),
        parts,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn score_line(line: &str) -> Result<String, String> {
        let folder = tempfile::tempdir().unwrap();
        let input = folder.path().join("in.jsonl");
        std::fs::write(&input, line).unwrap();
        let mut output = Vec::new();
        let arguments = Arguments {
            environment: Named::Tldr,
            tasks: None,
            input,
            confinement: Confinement::default(),
        };
        run(&arguments, &mut output).map_err(|error| format!("{error:#}"))?;
        Ok(String::from_utf8(output).unwrap())
    }

    #[test]
    fn the_reward_is_printed_with_its_parts_in_order() {
        let first = "one two three four five six seven eight";
        let second = "However, nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen \
                      eighteen nineteen twenty";
        let line = serde_json::json!({"id": "x", "responses": [first, second]}).to_string();
        let printed = score_line(&line).unwrap();
        assert!(printed.starts_with("{\"reward\":"), "{printed}");
        let score: Value = serde_json::from_str(&printed).unwrap();
        let parts: Vec<&String> = score["parts"].as_object().unwrap().keys().collect();
        assert_eq!(parts, polyphony_env::Writing::tldr().reward_parts());
        assert_eq!(score["parts"]["structure"], 0.5);
        let total = polyphony_env::Writing::tldr().score(first, second).total();
        assert_eq!(score["reward"], total);
    }

    #[test]
    fn wrong_lines_are_told_what_is_expected() {
        let rows = [
            (
                r#"{"responses": ["a"]}"#,
                "line 1: `responses` holds 1 texts, but must hold 2, one for each role: \
                 summarizer, elaborator",
            ),
            (
                r#"{"texts": ["a", "b"]}"#,
                "line 1: column 21: missing field `responses`",
            ),
        ];
        for (line, expected) in rows {
            let message = score_line(line).unwrap_err();
            assert!(message.ends_with(expected), "{message}\nlacks: {expected}");
        }
    }
}
