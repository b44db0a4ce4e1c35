//! `polyphony score`: scores given texts with the reward of an environment.

use std::{collections::HashMap, io::Write, path::PathBuf};

use anyhow::{Context as _, Result, ensure};
use polyphony_episode::{Environment, JointAction, Response, Role, Split, Task};
use polyphony_runner::{Choice, Registry};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::{commands::sandbox::Confinement, json_lines};

/// The arguments of `polyphony score`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Use the reward of this environment, given with settings if needed, as in
    /// `Coding(settings: (turns: 2))`.
    #[arg(long = "env", value_name = "ENVIRONMENT")]
    environment: String,
    /// If the reward depends on tasks, use those in this file instead of the environment's own. It holds JSON
    /// lines (also gzipped) or Parquet; coding problems have `task_id`, `prompt`, `entry_point` and `test`.
    #[arg(long, value_name = "FILE")]
    tasks: Option<PathBuf>,
    /// Score the texts in this file of JSON lines, with a list of one text per agent in `responses`, and
    /// `task_id` if the reward depends on the task; `-` is standard input.
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

/// Prints the reward and its parts for every line of the input.
pub(crate) fn run(
    registry: &Registry,
    arguments: &Arguments,
    output: &mut dyn Write,
) -> Result<()> {
    let choice = arguments.choice(registry)?;
    let file = arguments.tasks(registry)?;
    let environment = registry.build_environment(&choice)?;
    let environment_tasks = || [Split::Train, Split::HeldOut].map(|split| environment.tasks(split));
    let tasks = file.unwrap_or_else(|| {
        environment_tasks()
            .into_iter()
            .flatten()
            .flatten()
            .collect()
    });
    let tasks_by_id: HashMap<String, Task> = tasks
        .into_iter()
        .map(|task| (task.id.clone(), task))
        .collect();
    json_lines::answer(&arguments.input, output, |index, texts: Texts| {
        // Without any tasks, the reward can depend only on the texts.
        let empty_task = Task::new(index.to_string(), [("", ""); 0]);
        let task = match tasks_by_id.is_empty() {
            true => &empty_task,
            false => find(&tasks_by_id, texts.task_id.as_deref())?,
        };
        check_count(environment.as_ref(), &texts.responses)?;
        let score = score(environment.as_ref(), task, texts.responses);
        match tasks_by_id.is_empty() {
            true => score.context("there is no --tasks, which some rewards need"),
            false => score,
        }
    })
}

impl Arguments {
    /// The environment, with the sandbox settings from the command line.
    fn choice(&self, registry: &Registry) -> Result<Choice> {
        let choice = registry.find_environment(&self.environment)?;
        if self.confinement.is_default() {
            return Ok(choice);
        }
        ensure!(
            choice.settings() == "()",
            "--python and --isolation need the name of an environment without settings: otherwise set them \
             under the environment's `sandbox`"
        );
        let sandbox = ron::to_string(&self.confinement.settings())?;
        Ok(Choice::with_settings(
            choice.name(),
            format!("(sandbox: {sandbox})"),
        ))
    }

    /// The tasks in the file of --tasks, if it was given.
    fn tasks(&self, registry: &Registry) -> Result<Option<Vec<Task>>> {
        let Some(path) = &self.tasks else {
            return Ok(None);
        };
        super::load_tasks(registry, path).map(Some)
    }
}

/// The task of an input line.
fn find<'a>(tasks: &'a HashMap<String, Task>, id: Option<&str>) -> Result<&'a Task> {
    let id = id.context("`task_id` is missing: give the identifier of a task")?;
    tasks
        .get(id)
        .with_context(|| format!("`task_id` is `{id}`, but no task has this identifier"))
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

/// The reward and its parts; also those of each role if each role has its own reward.
fn score(
    environment: &dyn Environment,
    task: &Task,
    responses: Vec<String>,
) -> Result<Map<String, Value>> {
    let action = JointAction::new(responses.into_iter().map(Response::from_text).collect());
    let reward = environment.step(task, &[], &action)?.reward;
    let mut score = reward_object(reward.total(), reward.parts());
    if let Some(given) = reward.role_count() {
        let roles = environment.roles();
        ensure!(
            given == roles.len(),
            "the environment gave {given} rewards, but has {} roles",
            roles.len()
        );
        let role_score = |(index, role): (usize, &Role)| {
            let score = reward_object(reward.total_of(index), reward.parts_of(index));
            (role.name.clone(), score.into())
        };
        let roles: Map<String, Value> = roles.iter().enumerate().map(role_score).collect();
        score.insert("roles".to_owned(), roles.into());
    }
    Ok(score)
}

fn reward_object<'a>(
    reward: f64,
    parts: impl Iterator<Item = (&'a str, f64)>,
) -> Map<String, Value> {
    let parts = parts.map(|(name, value)| (name.to_owned(), value.into()));
    let parts: Map<String, Value> = parts.collect();
    [("reward", reward.into()), ("parts", parts.into())]
        .map(|(name, value)| (name.to_owned(), value))
        .into_iter()
        .collect()
}

#[cfg(test)]
mod tests {
    use polyphony_episode::{
        EnvironmentError, EnvironmentSettings, FnEnvironment, Observation, Outcome, Reward, Turn,
    };
    use serde::Serialize;

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

    #[derive(Default, Serialize, Deserialize)]
    #[serde(default)]
    struct Lengths {}

    /// The reward of each role is the length of its text divided by the length of the task's field `longest`.
    struct LengthEnvironment(FnEnvironment);

    impl EnvironmentSettings for Lengths {
        fn build(&self) -> Result<Box<dyn Environment>, EnvironmentError> {
            let score = |task: &Task, action: &JointAction| {
                let longest = task.field("longest")?.len() as f64;
                let lengths = action.texts::<2>().map(|text| text.len() as f64 / longest);
                Ok(Reward::per_role(lengths.map(|length| [("length", length)])))
            };
            let environment = FnEnvironment::new(["left", "right"], ["length"], score);
            Ok(Box::new(LengthEnvironment(environment)))
        }
    }

    impl Environment for LengthEnvironment {
        fn roles(&self) -> &[Role] {
            self.0.roles()
        }

        fn reward_parts(&self) -> &[String] {
            self.0.reward_parts()
        }

        fn tasks(&self, split: Split) -> Option<Vec<Task>> {
            let id = format!("{split}");
            Some(vec![
                Task::new("both", [("longest", "1234")]),
                Task::new(id, [("longest", "12")]),
            ])
        }

        fn start(&self, task: &Task) -> Result<Vec<Observation>, EnvironmentError> {
            self.0.start(task)
        }

        fn step(
            &self,
            task: &Task,
            past: &[Turn],
            action: &JointAction,
        ) -> Result<Outcome, EnvironmentError> {
            self.0.step(task, past, action)
        }
    }

    fn score_lengths(task: &str, file: Option<&str>) -> Result<Value, String> {
        let folder = tempfile::tempdir().unwrap();
        let [input, tasks] = ["in.jsonl", "tasks.jsonl"].map(|name| folder.path().join(name));
        let line = serde_json::json!({"task_id": task, "responses": ["ab", "abcd"]});
        std::fs::write(&input, line.to_string()).unwrap();
        std::fs::write(&tasks, file.unwrap_or_default()).unwrap();
        let arguments = Arguments {
            environment: "lengths".to_owned(),
            tasks: file.map(|_| tasks),
            input,
            confinement: Confinement::default(),
        };
        let registry = crate::standard::registry().environment::<Lengths>("Lengths");
        let mut output = Vec::new();
        run(&registry, &arguments, &mut output).map_err(|error| format!("{error:#}"))?;
        Ok(serde_json::from_slice(&output).unwrap())
    }

    #[test]
    fn rewards_per_role_are_printed() {
        let score = score_lengths("both", None).unwrap();
        let expected = serde_json::json!({
            "reward": 0.75,
            "parts": {"length": 0.75},
            "roles": {
                "left": {"reward": 0.5, "parts": {"length": 0.5}},
                "right": {"reward": 1.0, "parts": {"length": 1.0}},
            },
        });
        assert_eq!(score, expected);
    }

    #[test]
    fn the_tasks_of_a_file_replace_those_of_the_environment() {
        let file = r#"{"task_id": "both", "longest": "12345678"}"#;
        let score = score_lengths("both", Some(file)).unwrap();
        assert_eq!(score["reward"], 0.375);
        assert!(score_lengths("train", None).is_ok());
        let message = score_lengths("train", Some(file)).unwrap_err();
        assert!(
            message.ends_with("no task has this identifier"),
            "{message}"
        );
    }

    #[test]
    fn an_error_in_a_line_states_what_is_expected() {
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
