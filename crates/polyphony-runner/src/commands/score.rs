//! `polyphony score`: the reward of texts, whoever wrote them.

use std::{io::Write, path::PathBuf};

use anyhow::{Result, ensure};
use polyphony_episode::{Environment, JointAction, Response, Task};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{json_lines, recipe::EnvironmentKind};

/// The arguments of `polyphony score`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Whose reward.
    #[arg(long = "env")]
    environment: EnvironmentKind,
    /// JSON lines with `responses`, a list of one text for each agent; `-` is standard input.
    #[arg(long)]
    input: PathBuf,
}

#[derive(Deserialize)]
struct Texts {
    responses: Vec<String>,
}

#[derive(Serialize)]
struct Score {
    reward: f64,
    parts: Map<String, Value>,
}

/// Prints the reward and its parts for every line of the input.
pub(crate) fn run(arguments: &Arguments, output: &mut dyn Write) -> Result<()> {
    let environment = arguments.environment.build();
    json_lines::answer(&arguments.input, output, |index, texts: Texts| {
        score(environment.as_ref(), index, texts)
    })
}

fn score(environment: &dyn Environment, index: usize, texts: Texts) -> Result<Score> {
    let (given, roles) = (texts.responses.len(), environment.roles());
    let names: Vec<&str> = roles.iter().map(|role| role.name.as_str()).collect();
    ensure!(
        given == roles.len(),
        "`responses` holds {given} texts, but must hold {}, one for each role: {}",
        roles.len(),
        names.join(", ")
    );
    let task = Task::new(index.to_string(), [("", ""); 0]);
    let action = JointAction::new(
        texts
            .responses
            .into_iter()
            .map(Response::from_text)
            .collect(),
    );
    let reward = environment.step(&task, &[], &action)?.reward;
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
            environment: EnvironmentKind::Tldr,
            input,
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
