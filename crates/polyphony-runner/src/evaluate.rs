//! How good a team is on held-out tasks.

use std::time::Instant;

use anyhow::{Result, ensure};
use indexmap::IndexMap;
use polyphony_episode::{Environment, FinishReason, Response, Reward, Role, Turn};
use polyphony_marl::{Episode, EpisodeConfig, Episodes, Protocol, play_episodes};
use polyphony_report::{
    ByTask, Completions, Estimate, Evaluation, PlayedEpisode, Timing, mean,
};

use crate::{
    observer::{Event, Observer},
    prepare::Prepared,
    recipe::Recipe,
    registry::Registry,
    stop::Stop,
};

/// Rows that are decoded together.
const ROWS: usize = 32;

/// Tasks that are played together, each with this many episodes.
pub(crate) fn tasks_at_once(episodes: usize) -> usize {
    (ROWS / episodes).max(1)
}

/// What is evaluated, and how.
#[derive(Clone, Copy, Debug)]
pub struct Evaluating<'a> {
    /// The environment, the held-out tasks, and the team.
    pub recipe: &'a Recipe,
    /// Who reads whose answers.
    pub protocol: &'a Protocol,
    /// Training steps that the team has had, as far as it is known.
    pub step: Option<usize>,
}

/// Evaluates a team outside of its training. `None` if it was stopped.
///
/// # Errors
/// If models or data cannot be had, or the evaluation fails.
pub fn evaluate(
    registry: &Registry,
    evaluating: &Evaluating<'_>,
    stop: &Stop,
    observer: &mut dyn Observer,
) -> Result<Option<Evaluation>> {
    let &Evaluating {
        recipe,
        protocol,
        step,
    } = evaluating;
    let settings = registry.read_algorithm(&recipe.algorithm)?.settings;
    let session = EvaluationSession {
        prepared: &Prepared::for_evaluation(registry, recipe)?,
        recipe,
        discount: settings.tree().discount,
        protocol,
        step,
    };
    let evaluation = session.play("held-out tasks", stop, observer)?;
    if let Some(evaluation) = &evaluation {
        ensure!(
            evaluation.tasks > 0,
            "not one of {} episodes fits into the context with what agents read of one another: lower \
             `max_new_tokens`, or take models with a longer context",
            evaluation.skipped_episodes
        );
    }
    Ok(evaluation)
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
