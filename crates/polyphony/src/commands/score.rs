//! `polyphony score`: the reward of given texts.

use std::{collections::HashMap, io::Write, path::PathBuf};

use anyhow::{Context as _, Result, ensure};
use polyphony_episode::{Environment, JointAction, Response, Split, Task};
use polyphony_runner::{Choice, Registry};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{commands::sandbox::Confinement, json_lines};

/// The arguments of `polyphony score`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The environment whose reward is computed, with settings if needed, as in
    /// `Coding(settings: (turns: 2))`.
    #[arg(long = "env", value_name = "ENVIRONMENT")]
    environment: String,
    /// The tasks, if the reward depends on them: a file of JSON lines (also gzipped) or Parquet; coding
    /// problems have `task_id`, `prompt`, `entry_point` and `test`.
    #[arg(long, value_name = "FILE")]
    tasks: Option<PathBuf>,
    /// JSON lines with `responses`, a list of one text per agent, and `task_id` if the reward depends on the
    /// task; `-` is standard input.
    #[arg(long)]
    input: PathBuf,
    #[command(flatten)]
    confinement: Confinement,
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
pub(crate) fn run(
    registry: &Registry,
    arguments: &Arguments,
    output: &mut dyn Write,
) -> Result<()> {
    let choice = arguments.choice(registry)?;
    let file = arguments.tasks(registry)?;
    let environment = registry.build_environment(&choice)?;
    let known: HashMap<String, Task> = file
        .into_iter()
        .chain(
            [Split::Train, Split::HeldOut]
                .map(|split| environment.tasks(split))
                .into_iter()
                .flatten(),
        )
        .flatten()
        .map(|task| (task.id.clone(), task))
        .collect();
    json_lines::answer(&arguments.input, output, |index, texts: Texts| {
        // The reward of these texts depends on nothing else.
        let none = Task::new(index.to_string(), [("", ""); 0]);
        let task = match known.is_empty() {
            true => &none,
            false => find(&known, texts.task_id.as_deref())?,
        };
        check_count(environment.as_ref(), &texts.responses)?;
        let scored = score(environment.as_ref(), task, texts.responses);
        match known.is_empty() {
            true => scored.context("there is no --tasks, which some rewards need"),
            false => scored,
        }
    })
}

impl Arguments {
    /// The environment with the sandbox of the command line.
    fn choice(&self, registry: &Registry) -> Result<Choice> {
        let choice = registry.find_environment(&self.environment)?;
        if self.confinement.is_default() {
            return Ok(choice);
        }
        ensure!(
            choice.settings() == "()",
            "--python and --isolation only go with the plain name of an environment: put them into its \
             `sandbox`"
        );
        let sandbox = ron::to_string(&self.confinement.settings())?;
        Ok(Choice::with_settings(
            choice.name(),
            format!("(sandbox: {sandbox})"),
        ))
    }

    /// The tasks of the file, if there is one.
    fn tasks(&self, registry: &Registry) -> Result<Option<Vec<Task>>> {
        let Some(path) = &self.tasks else {
            return Ok(None);
        };
        super::load_tasks(registry, path).map(Some)
    }
}

/// The task of a line.
fn find<'a>(tasks: &'a HashMap<String, Task>, id: Option<&str>) -> Result<&'a Task> {
    let id = id.context("`task_id` is missing: give the identifier of a task")?;
    tasks
        .get(id)
        .with_context(|| format!("`task_id` is `{id}`, but no task is called that"))
}

fn check_count(environment: &dyn Environment, responses: &[String]) -> Result<()> {
    let (given, roles) = (responses.len(), environment.roles());
    let names: Vec<&str> = roles.iter().map(|role| role.name.as_str()).collect();
    ensure!(
        given == roles.len(),
        "`responses` holds {given} texts, but must hold {}, one for each role: {}",
        roles.len(),
        names.join(", ")
    );
    Ok(())
}

fn score(environment: &dyn Environment, task: &Task, responses: Vec<String>) -> Result<Score> {
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
            environment: "tldr".to_owned(),
            tasks: None,
            input,
            confinement: Confinement::default(),
        };
        run(&crate::standard::registry(), &arguments, &mut output)
            .map_err(|error| format!("{error:#}"))?;
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
        let tldr = polyphony_env::Writing::tldr();
        let parts: Vec<&String> = score["parts"].as_object().unwrap().keys().collect();
        let names: Vec<&String> = tldr.reward_parts().iter().collect();
        assert_eq!(parts, names);
        assert_eq!(score["parts"]["structure"], 0.5);
        let total = tldr.score(first, second).total();
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
