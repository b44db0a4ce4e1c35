//! Evaluation of a team on held-out tasks.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use indexmap::IndexMap;
use polyphony_episode::{Environment, FinishReason, Response, Reward, Role, Turn};
use polyphony_marl::{Episode, Episodes, Protocol, play_episodes};
use polyphony_report::{RoleReturn, EvaluationRecord, EpisodeRecord, RunInfo, RoleSummary, EvaluationTiming, mean};

use crate::{
    batch::tasks_at_once,
    info,
    observer::{Event, Observer},
    players::Players,
    prepare::Prepared,
    recipe::Recipe,
    registry::Registry,
    stop::Stop,
};

/// What is evaluated, and how.
#[derive(Clone, Copy, Debug)]
pub struct EvaluationRequest<'a> {
    /// The environment, the held-out tasks, and the team.
    pub recipe: &'a Recipe,
    /// Who plays.
    pub players: Players<'a>,
    /// Who reads whose answers.
    pub protocol: &'a Protocol,
    /// Training steps that the team has had; `None` if that is not known.
    pub step: Option<usize>,
}

/// The result of an evaluation, and what was evaluated.
#[derive(Clone, Debug)]
pub struct EvaluationResult {
    /// The recipe that was played: its team is the one that played.
    pub recipe: Recipe,
    /// What is known of its environment and algorithm.
    pub info: RunInfo,
    /// The figures.
    pub evaluation: EvaluationRecord,
}

/// Evaluates a team outside of its training. `None` if it was stopped.
///
/// # Errors
/// If models or data cannot be obtained, or the evaluation fails.
pub fn evaluate(
    registry: &Registry,
    evaluating: &EvaluationRequest<'_>,
    stop: &Stop,
    observer: &mut dyn Observer,
) -> Result<Option<EvaluationResult>> {
    let algorithm = registry
        .read_algorithm(&evaluating.recipe.algorithm)?
        .settings;
    let (recipe, environment) = evaluating.players.cast(registry, evaluating.recipe)?;
    recipe
        .validate_with(algorithm.as_ref())
        .context("checking the recipe with the team and the devices of this evaluation")?;
    let prepared = Prepared::for_evaluation(registry, &recipe, environment, algorithm, observer)?;
    let session = EvaluationSession {
        prepared: &prepared,
        recipe: &recipe,
        protocol: evaluating.protocol,
        step: evaluating.step,
    };
    let Some(evaluation) = session.play("held-out tasks", stop, observer)? else {
        return Ok(None);
    };
    ensure!(
        evaluation.tasks > 0,
        "none of {} episodes fits into the context with what agents read of one another: lower \
         `max_new_tokens`, or use models with a longer context",
        evaluation.skipped_episodes
    );
    let info = info::run_info(registry, &recipe, &prepared)?;
    Ok(Some(EvaluationResult {
        recipe,
        info,
        evaluation,
    }))
}

/// A team that is being evaluated, with its tasks.
pub(crate) struct EvaluationSession<'a> {
    pub(crate) prepared: &'a Prepared,
    pub(crate) recipe: &'a Recipe,
    pub(crate) protocol: &'a Protocol,
    /// Training steps that the team has had; `None` if that is not known.
    pub(crate) step: Option<usize>,
}

impl EvaluationSession<'_> {
    /// Plays the held-out tasks, with random numbers that depend only on the seed: the same team gets the
    /// same figures, and training is not affected. `None` if it was stopped.
    ///
    /// # Errors
    /// If generation or the environment fails.
    pub(crate) fn play(
        &self,
        title: &str,
        stop: &Stop,
        observer: &mut dyn Observer,
    ) -> Result<Option<EvaluationRecord>> {
        let started = Instant::now();
        let tasks = &self.prepared.held_out;
        observer.on_event(Event::Begun {
            title,
            length: tasks.len(),
            done: 0,
        });
        let config = self.recipe.training_config();
        let episodes = self.recipe.evaluation.samples;
        let indices: Vec<usize> = (0..tasks.len()).collect();
        let mut all = Episodes::default();
        let mut done = 0;
        for batch in indices.chunks(tasks_at_once(episodes)) {
            if stop.is_requested() {
                observer.on_event(Event::Ended);
                return Ok(None);
            }
            let agents = &self.prepared.team.agents;
            let played = play_episodes(
                agents,
                self.environment(),
                tasks.batch(batch),
                episodes,
                self.protocol,
                &config,
                &mut |_| (),
            )?;
            all.played.extend(played.played);
            all.left_out.extend(played.left_out);
            done += batch.len();
            observer.on_event(Event::Advanced { done });
        }
        observer.on_event(Event::Ended);
        let played = PlayedTasks {
            environment: self.environment(),
            protocol: self.protocol,
            step: self.step,
            samples: self.recipe.evaluation.samples,
            discount: self.prepared.discount(),
            secs: started.elapsed().as_secs_f64(),
        };
        Ok(Some(played.summarize(&all)))
    }

    fn environment(&self) -> &dyn Environment {
        self.prepared.environment.as_ref()
    }
}

/// How the episodes of an evaluation were played.
struct PlayedTasks<'a> {
    environment: &'a dyn Environment,
    protocol: &'a Protocol,
    step: Option<usize>,
    /// Episodes per task.
    samples: usize,
    discount: f64,
    /// How long they took.
    secs: f64,
}

impl PlayedTasks<'_> {
    /// Summarizes the episodes.
    fn summarize(&self, episodes: &Episodes) -> EvaluationRecord {
        let Self {
            environment, secs, ..
        } = *self;
        let all = &episodes.played;
        // Episodes that ended since a prompt did not fit have a cost too.
        let paid = || all.iter().chain(&episodes.left_out);
        let completion_tokens = paid().map(|episode| episode.completion_tokens).sum();
        let played = |episode| record(environment, episode, self.discount);
        let evaluation = EvaluationRecord {
            step: self.step,
            protocol: self.protocol.name.to_string(),
            roles: said(environment, all),
            samples: self.samples,
            skipped_episodes: episodes.left_out.len(),
            cut_episodes: all.iter().filter(|episode| episode.is_cut).count(),
            completion_tokens,
            prompt_tokens: paid().map(|episode| episode.prompt_tokens).sum(),
            timing: EvaluationTiming {
                secs,
                tokens_per_sec: completion_tokens as f64 / secs,
                ..EvaluationTiming::default()
            },
            episodes: all.iter().map(played).collect(),
            ..EvaluationRecord::default()
        };
        evaluation.summarized(environment.reward_parts())
    }
}

/// The record that is kept of an episode.
fn record(environment: &dyn Environment, episode: &Episode, discount: f64) -> EpisodeRecord {
    let parts = |part_of: &dyn Fn(&Reward, &str) -> Option<f64>| {
        let part = |name: &String| {
            let value = |reward: &Reward| part_of(reward, name).unwrap_or(0.0);
            (name.clone(), episode.discounted(discount, value))
        };
        environment.reward_parts().iter().map(part).collect()
    };
    let earned = |(role, named): (usize, &Role)| {
        let earned = RoleReturn {
            value: episode.discounted(discount, |reward| reward.total_of(role)),
            parts: parts(&|reward, name| reward.part_of(role, name)),
        };
        (named.name.clone(), earned)
    };
    let is_per_role = episode
        .rewards
        .iter()
        .any(|reward| reward.roles().is_some());
    let roles = environment.roles().iter().enumerate();
    let turn = |turn: &Turn| {
        let responses = turn.action.responses.iter();
        responses
            .map(|response| response.text.to_string())
            .collect()
    };
    EpisodeRecord {
        task: episode.task.clone(),
        value: episode.discounted(discount, Reward::total),
        parts: parts(&|reward, name| reward.part(name)),
        roles: match is_per_role {
            true => roles.map(earned).collect(),
            false => IndexMap::new(),
        },
        solved: episode
            .rewards
            .last()
            .and_then(|last| environment.is_solved(last)),
        turns: episode.turns.iter().map(turn).collect(),
    }
}

/// Statistics of each role's responses.
fn said(environment: &dyn Environment, episodes: &[Episode]) -> IndexMap<String, RoleSummary> {
    let of_role = |(index, role): (usize, &Role)| {
        let responses = || episodes.iter().flat_map(|episode| episode.responses(index));
        let lengths: Vec<f64> = responses().map(|said| said.tokens.len() as f64).collect();
        let is_cut = |said: &Response| f64::from(u8::from(said.finish == FinishReason::Length));
        let cut: Vec<f64> = responses().map(is_cut).collect();
        let said = RoleSummary {
            completion_length: mean(&lengths),
            truncated_fraction: mean(&cut),
            ..RoleSummary::default()
        };
        (role.name.clone(), said)
    };
    let roles = environment.roles().iter().enumerate();
    roles.map(of_role).collect()
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use polyphony_episode::{EnvironmentError, JointAction, Observation, Outcome, Task};

    use super::*;

    /// Two roles; a reward of 1 solves a task.
    struct Pair {
        roles: [Role; 2],
        parts: [String; 1],
    }

    impl Environment for Pair {
        fn roles(&self) -> &[Role] {
            &self.roles
        }

        fn reward_parts(&self) -> &[String] {
            &self.parts
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

    fn pair() -> Pair {
        Pair {
            roles: ["first", "second"].map(Role::new),
            parts: ["style".to_owned()],
        }
    }

    /// An episode with these rewards, in which the first role wrote three tokens per turn, and the second
    /// was cut off after five.
    fn episode(task: &str, rewards: &[f64]) -> Episode {
        let response = |tokens: usize, finish| Response {
            text: "so".into(),
            tokens: vec![7; tokens].into(),
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
            completion_tokens: 8 * rewards.len(),
            prompt_tokens: 20,
            is_cut: false,
        }
    }

    #[test]
    fn episodes_become_figures_of_their_tasks() {
        let cut = Episode {
            is_cut: true,
            ..episode("a", &[0.25])
        };
        let episodes = Episodes {
            played: vec![episode("a", &[0.5, 1.0]), cut, episode("b", &[1.0])],
            left_out: vec![episode("b", &[])],
        };
        let pair = pair();
        let played = PlayedTasks {
            environment: &pair,
            protocol: &Protocol::parallel(),
            step: Some(4),
            samples: 2,
            discount: 0.5,
            secs: 2.0,
        };
        let found = played.summarize(&episodes);
        // Task a has 0.5 + 0.5 · 1.0 and 0.25, task b has 1.0.
        assert_eq!((found.tasks, found.samples), (2, 2));
        assert_eq!(found.returns.mean, (0.625 + 1.0) / 2.0);
        assert_eq!(found.parts["style"], found.returns);
        // One episode of b is missing, so pass@2 is not known for it.
        let rates: Vec<(usize, f64)> = found
            .pass_at
            .iter()
            .map(|(k, rate)| (*k, rate.mean))
            .collect();
        assert_eq!(rates, [(1, 0.75), (2, 1.0)]);
        assert_eq!((found.skipped_episodes, found.cut_episodes), (1, 1));
        assert_eq!((found.completion_tokens, found.prompt_tokens), (32, 80));
        assert_eq!(
            (found.timing.tokens_per_sec, found.timing.secs_per_task),
            (16.0, 1.0)
        );
        let said = |completion_length, truncated_fraction| RoleSummary {
            completion_length,
            truncated_fraction,
            ..RoleSummary::default()
        };
        assert_eq!(found.roles["first"], said(3.0, 0.0));
        assert_eq!(found.roles["second"], said(5.0, 1.0));
        let figures = found.figures();
        let expected = [
            ("held_out/return", 0.8125),
            ("held_out/reward/style", 0.8125),
            ("held_out/pass@1", 0.75),
            ("held_out/pass@2", 1.0),
            ("held_out/first/completion_length", 3.0),
            ("held_out/first/truncated_fraction", 0.0),
            ("held_out/second/completion_length", 5.0),
            ("held_out/second/truncated_fraction", 1.0),
        ];
        assert_eq!(
            figures,
            expected.map(|(name, value)| (name.to_owned(), value))
        );
        let solved: Vec<Option<bool>> = found.episodes.iter().map(|own| own.solved).collect();
        assert_eq!(solved, [Some(true), Some(false), Some(true)]);
    }

    #[test]
    fn rewards_per_role_are_kept_beside_their_mean() {
        let rewards = [[("style", 1.0)], [("style", 0.5)]];
        let own = Episode {
            rewards: vec![Reward::per_role(rewards)],
            ..episode("a", &[0.0])
        };
        let record = record(&pair(), &own, 1.0);
        assert_eq!(record.value, 0.75);
        assert_eq!(record.parts["style"], 0.75);
        assert_eq!(record.roles["first"].value, 1.0);
        assert_eq!(record.roles["second"].parts["style"], 0.5);
    }
}
