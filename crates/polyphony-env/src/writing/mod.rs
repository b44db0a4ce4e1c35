//! In a single turn, two agents each write a text of their own about the same source text.

mod curve;
mod reward;
mod settings;
mod stop_words;
mod tasks;
mod text;
mod transitions;

use std::{num::NonZeroUsize, thread};

use polyphony_episode::{
    Environment, EnvironmentError, JointAction, Observation, Outcome, Reward, Role, Task, Turn,
};
use serde::{Deserialize, Serialize};

pub use self::settings::{Arxiv, Tldr};
use self::tasks::TaskTable;

/// What the agents of a [`Writing`] environment write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum WritingTask {
    /// Summaries of the field `post`. The `summarizer` writes a concise one. The `elaborator` writes a
    /// detailed one with a wider vocabulary and transition words.
    Tldr,
    /// An introduction from the field `abstract`. The agent `background` writes the background and the
    /// motivation. The agent `method` writes the method and its implications.
    Arxiv,
}

impl WritingTask {
    fn table(self) -> &'static TaskTable {
        match self {
            Self::Tldr => &tasks::TLDR,
            Self::Arxiv => &tasks::ARXIV,
        }
    }
}

/// A writing environment: two agents, one turn.
///
/// Both agents see the same text, each with its own instruction. If the task has a field `title`, it
/// stands above the text. The reward always has the parts `structure`, `length`, `vocabulary`,
/// `transitions` and `overlap`. The first three are gates: if the pair of texts is outside the range of a
/// gate, this part and all later parts are 0.
#[derive(Clone, Debug)]
pub struct Writing {
    table: &'static TaskTable,
    roles: [Role; 2],
    parts: [String; reward::PARTS.len()],
}

impl Writing {
    /// The reward of a pair of texts is never higher than this.
    pub const MAX_REWARD: f64 = 3.0;

    /// The environment of a writing task.
    pub fn new(task: WritingTask) -> Self {
        let table = task.table();
        Self {
            table,
            roles: [0, 1].map(|agent| Role::new(table.agents[agent].role)),
            parts: reward::PARTS.map(String::from),
        }
    }

    /// A concise and a detailed summary of a post: [`WritingTask::Tldr`].
    pub fn tldr() -> Self {
        Self::new(WritingTask::Tldr)
    }

    /// The background and the method of a paper, from its abstract: [`WritingTask::Arxiv`].
    pub fn arxiv() -> Self {
        Self::new(WritingTask::Arxiv)
    }

    /// The reward of the first and the second agent's text. It depends on these two texts only.
    pub fn score(&self, first: &str, second: &str) -> Reward {
        reward::reward(&self.table.rules, first, second)
    }
}

impl Environment for Writing {
    fn roles(&self) -> &[Role] {
        &self.roles
    }

    fn reward_parts(&self) -> &[String] {
        &self.parts
    }

    fn concurrency(&self) -> NonZeroUsize {
        thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
    }

    fn start(&self, task: &Task) -> Result<Vec<Observation>, EnvironmentError> {
        let TaskTable {
            field,
            label,
            agents,
            ..
        } = self.table;
        let body = task.field(field)?.trim();
        if body.is_empty() {
            let id = &task.id;
            return Err(EnvironmentError::failed(format!(
                "field `{field}` of task `{id}` is blank: give it text or leave the task out"
            )));
        }
        let title = task
            .fields
            .get("title")
            .map(|title| title.trim())
            .unwrap_or_default();
        let heading = if title.is_empty() {
            String::new()
        } else {
            format!("{title}\n\n")
        };
        let observe = |instruction: &str| {
            Observation::new(format!("{instruction}\n\n{label}:\n{heading}{body}"))
        };
        Ok(agents
            .iter()
            .map(|agent| observe(agent.instruction))
            .collect())
    }

    fn step(
        &self,
        _task: &Task,
        _past: &[Turn],
        action: &JointAction,
    ) -> Result<Outcome, EnvironmentError> {
        let [first, second] = action.texts();
        Ok(Outcome::end(self.score(first, second)))
    }
}

#[cfg(test)]
mod tests {
    use polyphony_episode::Response;

    use super::*;

    fn start(fields: &[(&str, &str)]) -> Result<Vec<String>, String> {
        let task = Task::new("t/1", fields.iter().copied());
        match Writing::tldr().start(&task) {
            Ok(observations) => Ok(observations
                .into_iter()
                .map(|one| one.text.to_string())
                .collect()),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn both_agents_see_the_text_with_their_own_instruction() {
        let observations = start(&[("post", " It rained.\n"), ("title", "Weather")]).unwrap();
        for (text, agent) in observations.iter().zip(&tasks::TLDR.agents) {
            assert_eq!(
                *text,
                format!("{}\n\nPost:\nWeather\n\nIt rained.", agent.instruction)
            );
        }
        assert_ne!(observations[0], observations[1]);
    }

    #[test]
    fn a_title_is_optional() {
        for fields in [
            &[("post", "It rained.")][..],
            &[("post", "It rained."), ("title", " ")],
        ] {
            for text in start(fields).unwrap() {
                assert!(text.ends_with("\n\nPost:\nIt rained."), "{text:?}");
            }
        }
    }

    #[test]
    fn a_task_without_text_is_an_error() {
        let missing = "task `t/1` has no field `post`; it has: title";
        assert_eq!(start(&[("title", "Weather")]).unwrap_err(), missing);
        let blank = "field `post` of task `t/1` is blank: give it text or leave the task out";
        assert_eq!(start(&[("post", " \n")]).unwrap_err(), blank);
    }

    #[test]
    fn an_episode_ends_after_one_turn_with_every_part() {
        for (environment, roles) in [
            (Writing::tldr(), ["summarizer", "elaborator"]),
            (Writing::arxiv(), ["background", "method"]),
        ] {
            let names: Vec<&str> = environment.roles().iter().map(|role| &*role.name).collect();
            assert_eq!(names, roles);
            let task = Task::new("t/1", [("abstract", "We prove it.")]);
            let action = JointAction::new(["", ""].map(Response::from_text).into());
            let outcome = environment.step(&task, &[], &action).unwrap();
            let parts: Vec<(&str, f64)> = outcome.reward.parts().collect();
            let expected: Vec<(&str, f64)> = environment
                .reward_parts()
                .iter()
                .map(|name| (name.as_str(), 0.0))
                .collect();
            assert_eq!(parts, expected);
            assert_eq!(outcome, Outcome::end(environment.score("", "")));
        }
    }

    #[test]
    fn texts_are_scored_in_the_order_of_the_roles() {
        let [short, long] = [
            "one two three four five six seven eight",
            &"word ".repeat(20),
        ];
        let action = JointAction::new([short, long].map(Response::from_text).into());
        let task = Task::new("t/1", [("post", "It rained.")]);
        let outcome = Writing::tldr().step(&task, &[], &action).unwrap();
        assert_eq!(outcome.reward, Writing::tldr().score(short, long));
        assert_ne!(outcome.reward, Writing::tldr().score(long, short));
    }
}
