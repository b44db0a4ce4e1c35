//! How good a team is on held-out tasks.

use std::time::Instant;

use anyhow::Result;
use indexmap::IndexMap;
use polyphony_episode::{Environment, FinishReason, Response, Reward, Role, Task, Turn};
use polyphony_marl::{Episode, EpisodeConfig, Episodes, MarlError, Protocol, play_episodes};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::{
    interrupt,
    recipe::Recipe,
    statistics::{ByTask, Estimate, mean, or_nan, pass_at},
    team::Team,
    train::indexed,
};

/// Rows that are decoded together.
const ROWS: usize = 32;

/// Tasks that are played together, each with so many episodes.
pub(crate) fn tasks_at_once(episodes: usize) -> usize {
    (ROWS / episodes).max(1)
}

/// A team's figures on held-out tasks: a line of `evaluations.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evaluation {
    /// Training steps that the team had had; `None` where that is not known.
    pub step: Option<usize>,
    /// Who read whose answers.
    pub protocol: Protocol,
    /// The return.
    #[serde(rename = "return")]
    pub returns: Estimate,
    /// Every part of the return: as the return itself, with the discounted rewards of later turns.
    pub parts: IndexMap<String, Estimate>,
    /// The chance that at least one of so many episodes of a task is solved, by their number: 1 and
    /// all that were played. Empty where the environment does not say what is solved.
    pub pass_at: IndexMap<usize, Estimate>,
    /// What each role said.
    pub roles: IndexMap<String, Said>,
    /// Tasks played.
    pub tasks: usize,
    /// Episodes of each task.
    pub samples: usize,
    /// Episodes left out since a prompt did not fit.
    pub skipped_episodes: usize,
    /// Episodes that would have gone on, had the next prompt fitted.
    pub cut_episodes: usize,
    /// Tokens that the agents sampled, drafts included.
    pub sampled_tokens: usize,
    /// Tokens that they read: all histories that they answered.
    pub read_tokens: usize,
    /// All that depends on clocks.
    pub timing: Timing,
    /// What was said.
    pub episodes: Vec<Played>,
}

/// What a role said: means over all responses.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Said {
    /// Tokens of a response.
    #[serde(deserialize_with = "or_nan")]
    pub response_tokens: f64,
    /// The share of responses that the length limit cut off.
    #[serde(deserialize_with = "or_nan")]
    pub truncated_share: f64,
}

/// How long an evaluation took.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Timing {
    /// Seconds in all.
    pub secs: f64,
    /// Sampled tokens by all of these seconds, those of scoring included.
    pub tokens_per_sec: f64,
    /// Seconds a task, with all its episodes.
    #[serde(deserialize_with = "or_nan")]
    pub secs_per_task: f64,
}

/// One episode of a task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Played {
    /// The task's identifier.
    pub task: String,
    /// Its return.
    #[serde(rename = "return")]
    pub value: f64,
    /// Every part of its return.
    pub parts: IndexMap<String, f64>,
    /// Whether it ended with the task solved, where the environment says so.
    pub solved: Option<bool>,
    /// One text a role, at every turn.
    pub turns: Vec<Vec<String>>,
}

impl Evaluation {
    /// Its figures under the names that they have in TensorBoard.
    pub(crate) fn figures(&self) -> Map<String, Value> {
        let mut figures = Map::new();
        let mut add = |name: String, value: f64| {
            figures.insert(format!("held_out/{name}"), json!(value));
        };
        add("return".to_owned(), self.returns.mean);
        for (part, estimate) in &self.parts {
            add(format!("reward/{part}"), estimate.mean);
        }
        for (k, estimate) in &self.pass_at {
            add(format!("pass@{k}"), estimate.mean);
        }
        for (role, said) in &self.roles {
            add(format!("{role}/response_tokens"), said.response_tokens);
            add(format!("{role}/truncated_share"), said.truncated_share);
        }
        figures
    }

    /// All but what was said, as one JSON object.
    pub(crate) fn without_episodes(&self) -> Map<String, Value> {
        let object = serde_json::to_value(self).map(|value| match value {
            Value::Object(object) => object,
            _ => Map::new(),
        });
        let mut object = object.unwrap_or_default();
        object.shift_remove("episodes");
        object
    }

    /// The mean return of each task.
    pub fn by_task(&self) -> ByTask<'_> {
        self.of_tasks(|played| played.value)
    }

    /// The means of some figure over the episodes of each task.
    pub fn of_tasks(&self, figure: impl Fn(&Played) -> f64) -> ByTask<'_> {
        let tasks = self.episodes_by_task().into_iter();
        let mean_of = |own: Vec<&Played>| mean(&own.into_iter().map(&figure).collect::<Vec<_>>());
        tasks.map(|(task, own)| (task, mean_of(own))).collect()
    }

    /// The chance of each task that one of `k` episodes solves it, where as many were played; nothing
    /// where the environment does not say what is solved.
    pub fn pass_by_task(&self, k: usize) -> ByTask<'_> {
        let rate = |(task, own): (_, Vec<&Played>)| {
            let solved: Vec<bool> = own.iter().filter_map(|played| played.solved).collect();
            let right = solved.iter().filter(|solved| **solved).count();
            (solved.len() >= k).then(|| (task, pass_at(k, solved.len(), right)))
        };
        self.episodes_by_task()
            .into_iter()
            .filter_map(rate)
            .collect()
    }

    /// The episodes of each task, none of them empty.
    pub(crate) fn episodes_by_task(&self) -> IndexMap<&str, Vec<&Played>> {
        let mut tasks: IndexMap<&str, Vec<&Played>> = IndexMap::new();
        for played in &self.episodes {
            tasks.entry(&played.task).or_default().push(played);
        }
        tasks
    }

    /// The return, its parts and pass@k by the names that tables have for them.
    pub(crate) fn estimates(&self) -> IndexMap<String, Estimate> {
        let parts = self.parts.iter();
        let rates = self.pass_at.iter();
        std::iter::once(("return".to_owned(), self.returns))
            .chain(parts.map(|(part, estimate)| (format!("  {part}"), *estimate)))
            .chain(rates.map(|(k, estimate)| (format!("pass@{k}"), *estimate)))
            .collect()
    }
}

/// Plays held-out tasks, with random numbers that depend on the seed alone: the same
/// team gets the same figures, and training is not disturbed. `step` is the number of training steps that
/// the team has had, as far as it is known. `on_task` is told after each batch how many tasks are done.
/// `None` if the user interrupted it.
///
/// # Errors
/// If a prompt does not fit, generation fails, or the environment fails.
pub fn evaluate(
    team: &Team,
    environment: &dyn Environment,
    tasks: &[Task],
    recipe: &Recipe,
    protocol: Protocol,
    step: Option<usize>,
    on_task: &mut dyn FnMut(usize),
) -> Result<Option<Evaluation>, MarlError> {
    let started = Instant::now();
    let config = EpisodeConfig {
        episodes: recipe.evaluation.samples,
        protocol,
        responses: recipe.responses(),
        // Streams of their own: no training step has this number.
        key: recipe.stream_key(u32::MAX),
    };
    let indexed = indexed(tasks, 0..tasks.len());
    let mut all = Episodes::default();
    let mut done = 0;
    for batch in indexed.chunks(tasks_at_once(config.episodes)) {
        if interrupt::requested() {
            return Ok(None);
        }
        let batch_played = play_episodes(&team.agents, environment, batch, &config, &mut |_| ())?;
        all.played.extend(batch_played.played);
        all.left_out.extend(batch_played.left_out);
        done += batch.len();
        on_task(done);
    }
    let secs = started.elapsed().as_secs_f64();
    Ok(Some(summarize(
        environment,
        &all,
        recipe,
        protocol,
        step,
        secs,
    )))
}

fn summarize(
    environment: &dyn Environment,
    episodes: &Episodes,
    recipe: &Recipe,
    protocol: Protocol,
    step: Option<usize>,
    secs: f64,
) -> Evaluation {
    let discount = recipe.algorithm.discount;
    let all = &episodes.played;
    // What was said before a prompt did not fit was paid for too.
    let paid = || all.iter().chain(&episodes.left_out);
    let sampled_tokens = paid().map(|episode| episode.sampled_tokens).sum();
    let mut evaluation = Evaluation {
        step,
        protocol,
        returns: Estimate::of_runs(&[]),
        parts: IndexMap::new(),
        pass_at: IndexMap::new(),
        roles: said(environment, all),
        tasks: 0,
        samples: recipe.evaluation.samples,
        skipped_episodes: episodes.left_out.len(),
        cut_episodes: all.iter().filter(|episode| episode.is_cut).count(),
        sampled_tokens,
        read_tokens: paid().map(|episode| episode.read_tokens).sum(),
        timing: Timing {
            secs,
            tokens_per_sec: sampled_tokens as f64 / secs,
            secs_per_task: f64::NAN,
        },
        episodes: all
            .iter()
            .map(|episode| played(environment, episode, discount))
            .collect(),
    };
    let by_task = evaluation.by_task();
    (evaluation.tasks, evaluation.returns) = (by_task.len(), Estimate::of_run(by_task));
    evaluation.timing.secs_per_task = secs / evaluation.tasks as f64;
    let part = |part: &&str| {
        let values = evaluation.of_tasks(|played| played.parts[*part]);
        ((*part).to_owned(), Estimate::of_run(values))
    };
    evaluation.parts = environment.reward_parts().iter().map(part).collect();
    evaluation.pass_at = pass_rates(&evaluation);
    evaluation
}

fn played(environment: &dyn Environment, episode: &Episode, discount: f64) -> Played {
    let part = |name: &&str| {
        let value = episode.discounted(discount, |reward| reward.part(name).unwrap_or(0.0));
        ((*name).to_owned(), value)
    };
    let turn = |turn: &Turn| {
        let responses = turn.action.responses.iter();
        responses.map(|response| response.text.clone()).collect()
    };
    Played {
        task: episode.task.clone(),
        value: episode.discounted(discount, Reward::total),
        parts: environment.reward_parts().iter().map(part).collect(),
        solved: episode
            .rewards
            .last()
            .and_then(|last| environment.is_solved(last)),
        turns: episode.turns.iter().map(turn).collect(),
    }
}

fn said(environment: &dyn Environment, episodes: &[Episode]) -> IndexMap<String, Said> {
    let of_role = |(index, role): (usize, &Role)| {
        let responses = || episodes.iter().flat_map(|episode| episode.responses(index));
        let lengths: Vec<f64> = responses().map(|said| said.tokens.len() as f64).collect();
        let is_cut = |said: &Response| f64::from(u8::from(said.finish == FinishReason::Length));
        let cut: Vec<f64> = responses().map(is_cut).collect();
        let said = Said {
            response_tokens: mean(&lengths),
            truncated_share: mean(&cut),
        };
        (role.name.clone(), said)
    };
    environment
        .roles()
        .iter()
        .enumerate()
        .map(of_role)
        .collect()
}

/// pass@1, and pass@k of all k episodes that were played.
fn pass_rates(evaluation: &Evaluation) -> IndexMap<usize, Estimate> {
    // Once where both are the same.
    let numbers: IndexMap<usize, ByTask<'_>> = [1, evaluation.samples]
        .into_iter()
        .map(|k| (k, evaluation.pass_by_task(k)))
        .collect();
    let estimated = numbers.into_iter().filter(|(_, rates)| !rates.is_empty());
    estimated
        .map(|(k, rates)| (k, Estimate::of_run(rates)))
        .collect()
}

/// An evaluation of one-turn episodes with these returns, in which both agents of a pair said a text.
/// Half of each return is its part `style`.
#[cfg(test)]
pub(crate) fn fixture(episodes: &[(f64, String)]) -> Evaluation {
    let played = |(index, (value, text)): (usize, &(f64, String))| Played {
        task: format!("t{index}"),
        value: *value,
        parts: IndexMap::from([("style".to_owned(), value / 2.0)]),
        solved: None,
        turns: vec![vec![text.clone(); 2]],
    };
    let said = Said {
        response_tokens: 4.0,
        truncated_share: 0.5,
    };
    let mut evaluation = Evaluation {
        step: Some(0),
        protocol: Protocol::Parallel,
        returns: Estimate::of_runs(&[]),
        parts: IndexMap::new(),
        pass_at: IndexMap::new(),
        roles: ["first", "second"]
            .map(|role| (role.to_owned(), said))
            .into(),
        tasks: episodes.len(),
        samples: 1,
        skipped_episodes: 0,
        cut_episodes: 0,
        sampled_tokens: 8 * episodes.len(),
        read_tokens: 20 * episodes.len(),
        timing: Timing {
            secs: 2.0,
            tokens_per_sec: 4.0,
            secs_per_task: 2.0 / episodes.len() as f64,
        },
        episodes: episodes.iter().enumerate().map(played).collect(),
    };
    evaluation.returns = Estimate::of_run(evaluation.by_task());
    let style = Estimate::of_run(evaluation.of_tasks(|played| played.parts["style"]));
    evaluation.parts.insert("style".to_owned(), style);
    evaluation
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use polyphony_episode::{EnvironmentError, JointAction, Observation, Outcome};

    use super::*;

    /// Two roles; a reward of 1 solves a task.
    struct Pair([Role; 2]);

    impl Environment for Pair {
        fn roles(&self) -> &[Role] {
            &self.0
        }

        fn reward_parts(&self) -> &[&'static str] {
            &["style"]
        }

        fn horizon(&self) -> NonZeroUsize {
            const { NonZeroUsize::new(2).unwrap() }
        }

        fn is_solved(&self, reward: &Reward) -> Option<bool> {
            Some(reward.total() == 1.0)
        }

        fn start(&self, _task: &Task) -> Result<Vec<Observation>, EnvironmentError> {
            unreachable!("these episodes have been played")
        }

        fn step(
            &self,
            _task: &Task,
            _past: &[Turn],
            _action: &JointAction,
        ) -> Result<Outcome, EnvironmentError> {
            unreachable!("these episodes have been played")
        }
    }

    /// An episode with these rewards, in which the first role said three tokens a turn, and the second
    /// was cut off after five.
    fn episode(task: &str, rewards: &[f64]) -> Episode {
        let response = |tokens: usize, finish| Response {
            text: "so".to_owned(),
            tokens: vec![7; tokens],
            finish,
        };
        let turn = Turn {
            observations: Vec::new(),
            action: JointAction::new(vec![
                response(3, FinishReason::Stop),
                response(5, FinishReason::Length),
            ]),
        };
        let reward = |value: &f64| Reward::new([("style", *value)]);
        Episode {
            task: task.to_owned(),
            number: 0,
            turns: vec![turn; rewards.len()],
            rewards: rewards.iter().map(reward).collect(),
            sampled_tokens: 8 * rewards.len(),
            read_tokens: 20,
            is_cut: false,
        }
    }

    #[test]
    fn episodes_become_figures_of_their_tasks() {
        let changes = ["algorithm.discount=0.5", "evaluation.samples=2"].map(str::to_owned);
        let recipe = Recipe::load(Some("tldr-smollm2"), &changes).unwrap();
        let cut = Episode {
            is_cut: true,
            ..episode("a", &[0.25])
        };
        let episodes = Episodes {
            played: vec![episode("a", &[0.5, 1.0]), cut, episode("b", &[1.0])],
            left_out: vec![episode("b", &[])],
        };
        let pair = Pair(["first", "second"].map(Role::new));
        let found = summarize(&pair, &episodes, &recipe, Protocol::Parallel, Some(4), 2.0);
        // Task a has 0.5 + 0.5 · 1.0 and 0.25, task b has 1.0.
        assert_eq!((found.tasks, found.samples), (2, 2));
        assert_eq!(found.returns.mean, (0.625 + 1.0) / 2.0);
        assert_eq!(found.parts["style"], found.returns);
        // One episode of b is missing, so nothing can be said of two of it.
        let rates: Vec<(usize, f64)> = found
            .pass_at
            .iter()
            .map(|(k, rate)| (*k, rate.mean))
            .collect();
        assert_eq!(rates, [(1, 0.75), (2, 1.0)]);
        assert_eq!((found.skipped_episodes, found.cut_episodes), (1, 1));
        assert_eq!((found.sampled_tokens, found.read_tokens), (32, 80));
        assert_eq!(
            (found.timing.tokens_per_sec, found.timing.secs_per_task),
            (16.0, 1.0)
        );
        let said = |response_tokens, truncated_share| Said {
            response_tokens,
            truncated_share,
        };
        assert_eq!(found.roles["first"], said(3.0, 0.0));
        assert_eq!(found.roles["second"], said(5.0, 1.0));
        let figures: Vec<(String, f64)> = found
            .figures()
            .into_iter()
            .map(|(name, value)| (name, value.as_f64().unwrap()))
            .collect();
        let expected = [
            ("held_out/return", 0.8125),
            ("held_out/reward/style", 0.8125),
            ("held_out/pass@1", 0.75),
            ("held_out/pass@2", 1.0),
            ("held_out/first/response_tokens", 3.0),
            ("held_out/first/truncated_share", 0.0),
            ("held_out/second/response_tokens", 5.0),
            ("held_out/second/truncated_share", 1.0),
        ];
        assert_eq!(
            figures,
            expected.map(|(name, value)| (name.to_owned(), value))
        );
        let solved: Vec<Option<bool>> = found.episodes.iter().map(|own| own.solved).collect();
        assert_eq!(solved, [Some(true), Some(false), Some(true)]);
    }
}
