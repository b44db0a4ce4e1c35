//! How good a team is on held-out tasks.

use anyhow::Result;
use polyphony_episode::{Environment, Task};
use polyphony_marl::{
    IndexedTask, MarlError, Rollout, mean_part_return, mean_return, returns, rollout,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use crate::{interrupt, memory, recipe::Recipe, team::Team};

/// Rows that are decoded together.
const ROWS: u64 = 32;

/// Tasks that are played together, each with so many rows at its last turn.
pub(crate) fn tasks_at_once(rows: u64) -> usize {
    (ROWS / rows).max(1) as usize
}

/// A team's figures on held-out tasks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// The mean return over all tasks and samples.
    #[serde(rename = "return", deserialize_with = "or_nan")]
    pub mean_return: f64,
    /// The standard error of that mean, from the spread of the tasks' means; NaN (`null` in JSON)
    /// of a single task.
    #[serde(deserialize_with = "or_nan")]
    pub standard_error: f64,
    /// The mean of every part of the return: as the return itself, with the discounted rewards of
    /// later turns.
    #[serde(serialize_with = "as_object", deserialize_with = "from_object")]
    pub parts: Vec<(String, f64)>,
    /// Tasks played.
    pub tasks: usize,
    /// Tasks left out since a prompt did not fit.
    pub skipped_tasks: usize,
    /// Joint actions that would have gone on, had the next prompt fitted.
    pub cut_episodes: usize,
    /// The first joint action of every task.
    pub examples: Vec<Example>,
}

/// Named numbers as one JSON object, in their order.
pub(crate) fn as_object<S: Serializer>(
    parts: &[(String, f64)],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_map(parts.iter().map(|(name, value)| (name, value)))
}

fn from_object<'de, D: Deserializer<'de>>(reader: D) -> Result<Vec<(String, f64)>, D::Error> {
    let object = Map::<String, Value>::deserialize(reader)?;
    let number = |(name, value): (String, Value)| (name, value.as_f64().unwrap_or(f64::NAN));
    Ok(object.into_iter().map(number).collect())
}

/// A number that is not finite is `null` in JSON.
fn or_nan<'de, D: Deserializer<'de>>(reader: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(reader)?.unwrap_or(f64::NAN))
}

/// What the team said to one task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Example {
    /// The task's identifier.
    pub task: String,
    /// The return of these responses.
    #[serde(rename = "return", deserialize_with = "or_nan")]
    pub value: f64,
    /// One text an agent.
    pub responses: Vec<String>,
}

/// Plays held-out tasks, with random numbers that depend on the seed alone: the same
/// team gets the same figures, and training is not disturbed. `on_task` is told after each batch
/// how many tasks are done. `None` if the user interrupted it.
///
/// # Errors
/// If a prompt does not fit, generation fails, or the environment fails.
pub fn evaluate(
    team: &Team,
    environment: &dyn Environment,
    tasks: &[Task],
    recipe: &Recipe,
    on_task: &mut dyn FnMut(usize),
) -> Result<Option<Evaluation>, MarlError> {
    let config = recipe.evaluation_rollout();
    let played: Vec<IndexedTask<'_>> = tasks
        .iter()
        .enumerate()
        .map(|(index, task)| IndexedTask { index, task })
        .collect();
    let mut all = Rollout::default();
    let rows = memory::last_level(recipe, config.samples) * config.samples as u64;
    for batch in played.chunks(tasks_at_once(rows)) {
        if interrupt::requested() {
            return Ok(None);
        }
        let played = rollout(&team.agents, environment, batch, &config, &mut |_| ())?;
        all.nodes.extend(played.nodes);
        all.skipped_tasks += played.skipped_tasks;
        all.cut_episodes += played.cut_episodes;
        on_task(all.nodes.len() + all.skipped_tasks);
    }
    let discount = recipe.algorithm.discount;
    Ok(Some(summarize(environment, &all, discount)))
}

fn summarize(environment: &dyn Environment, played: &Rollout, discount: f64) -> Evaluation {
    let nodes = &played.nodes;
    let by_task: Vec<f64> = nodes
        .iter()
        .map(|node| mean_return(std::slice::from_ref(node), discount))
        .collect();
    let examples = nodes.iter().filter_map(|node| {
        let first = node.branches.first()?;
        let responses = node.joint_action(&first.picks).responses;
        Some(Example {
            task: node.task.clone(),
            value: *returns(node, discount).first()?,
            responses: responses
                .into_iter()
                .map(|response| response.text)
                .collect(),
        })
    });
    Evaluation {
        mean_return: mean_return(nodes, discount),
        standard_error: standard_error(&by_task),
        parts: environment
            .reward_parts()
            .iter()
            .map(|part| ((*part).to_owned(), mean_part_return(nodes, part, discount)))
            .collect(),
        tasks: nodes.len(),
        skipped_tasks: played.skipped_tasks,
        cut_episodes: played.cut_episodes,
        examples: examples.collect(),
    }
}

/// The standard error of the mean; NaN of fewer than two values.
fn standard_error(values: &[f64]) -> f64 {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let variance = values
        .iter()
        .map(|value| (value - mean).powi(2))
        .sum::<f64>()
        / (n - 1.0);
    (variance / n).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_standard_error_shrinks_with_the_root_of_the_number() {
        assert!(standard_error(&[1.0]).is_nan());
        assert_eq!(standard_error(&[2.0, 2.0, 2.0]), 0.0);
        assert!((standard_error(&[1.0, 3.0]) - 1.0).abs() < 1e-12);
        let four = standard_error(&[1.0, 3.0, 1.0, 3.0]);
        assert!((four - (4.0f64 / 3.0 / 4.0).sqrt()).abs() < 1e-12);
    }

    #[test]
    fn what_was_written_is_read_again() {
        let evaluation = Evaluation {
            mean_return: 1.5,
            standard_error: f64::NAN,
            parts: vec![("style".to_owned(), 0.5), ("length".to_owned(), 1.0)],
            tasks: 1,
            skipped_tasks: 0,
            cut_episodes: 0,
            examples: vec![],
        };
        let text = serde_json::to_string(&evaluation).unwrap();
        let read: Evaluation = serde_json::from_str(&text).unwrap();
        assert!(read.standard_error.is_nan(), "{text}");
        let standard_error = 0.0;
        assert_eq!(
            Evaluation {
                standard_error,
                ..read
            },
            Evaluation {
                standard_error,
                ..evaluation
            }
        );
    }
}
