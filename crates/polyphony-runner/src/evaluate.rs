//! Evaluates a team on held-out tasks.

use std::{sync::Arc, time::Instant};

use anyhow::{Context as _, Result, ensure};
use indexmap::IndexMap;
use polyphony_episode::{Environment, FinishReason, Response, Reward, Role, Turn};
use polyphony_marl::{Communicator, Episode, Episodes, Protocol, RankGroup, play_episodes};
use polyphony_report::{
    EpisodeRecord, EvaluationRecord, EvaluationTiming, RoleReturn, RoleSummary, RunInfo, mean,
};

use crate::{
    batch::tasks_at_once,
    evaluated_agents::EvaluatedAgents,
    info,
    observer::{Event, Observer},
    prepare::Prepared,
    ranks::{self, agree, any, check_same_run},
    recipe::Recipe,
    registry::Registry,
    stop::Stop,
};

/// What is evaluated, and how.
#[derive(Clone, Copy, Debug)]
pub struct EvaluationRequest<'a> {
    /// The environment, the held-out tasks, the settings, and the team unless `agents` replaces it.
    pub recipe: &'a Recipe,
    /// The recipe's team, the agents that a run saved, or a single agent instead of the team.
    pub agents: EvaluatedAgents<'a>,
    /// Which answers each agent reads before it answers.
    pub protocol: &'a Protocol,
    /// Training steps that the team has had; `None` if that is not known.
    pub step: Option<usize>,
}

/// The result of an evaluation, and what was evaluated.
#[derive(Clone, Debug)]
pub struct EvaluationResult {
    /// The recipe with the team that was evaluated.
    pub recipe: Recipe,
    /// A description of the recipe's environment and algorithm.
    pub info: RunInfo,
    /// The metrics and the episodes.
    pub evaluation: EvaluationRecord,
}

/// Evaluates a team outside of training. Returns `None` if the evaluation was stopped. `world` connects the ranks that
/// evaluate together, as in [`train`](crate::train()); all of them get the result.
///
/// # Errors
/// If models or data cannot be obtained, or the evaluation fails.
pub fn evaluate(
    registry: &Registry,
    request: &EvaluationRequest<'_>,
    world: &Arc<dyn Communicator>,
    stop: &Stop,
    observer: &mut dyn Observer,
) -> Result<Option<EvaluationResult>> {
    let everyone = RankGroup::of(Arc::clone(world));
    let check = || {
        let algorithm = registry.read_algorithm(&request.recipe.algorithm)?.settings;
        let (recipe, environment) = request.agents.apply_to(registry, request.recipe)?;
        let recipe = recipe.with_resolved_precision()?;
        recipe
            .validate_with(algorithm.as_ref())
            .context("checking the recipe with the team and the devices of this evaluation")?;
        Ok((algorithm, recipe, environment))
    };
    let (algorithm, recipe, environment) = agree(&everyone, check())?;
    check_same_run(
        &everyone,
        &format!("evaluate {:?}", request.protocol),
        &recipe,
    )?;
    let prepared =
        Prepared::for_evaluation(registry, &recipe, environment, algorithm, world, observer)?;
    let session = EvaluationSession {
        prepared: &prepared,
        recipe: &recipe,
        protocol: request.protocol,
        step: request.step,
    };
    let Some(evaluation) = session.run("held-out tasks", stop, observer)? else {
        return Ok(None);
    };
    ensure!(
        evaluation.tasks > 0,
        "all {} episodes were skipped: with the answers of the other agents, the prompts are too long for \
         the context: lower `max_new_tokens`, or use models with a longer context",
        evaluation.skipped_episodes
    );
    let ranks = ranks::info(world.as_ref(), prepared.team.agents.ranks());
    let info = info::run_info(registry, &recipe, &prepared, ranks)?;
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
    /// Plays the held-out tasks. Random numbers depend only on the seed: the same team gets the same metrics,
    /// and training is not affected. Returns `None` if the evaluation was stopped.
    ///
    /// # Errors
    /// If generation or the environment fails.
    pub(crate) fn run(
        &self,
        title: &str,
        stop: &Stop,
        observer: &mut dyn Observer,
    ) -> Result<Option<EvaluationRecord>> {
        let started = Instant::now();
        let tasks = &self.prepared.held_out;
        observer.on_event(Event::PhaseStarted {
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
            let world = self.prepared.team.agents.ranks().world();
            if any(world, stop.is_requested())? {
                observer.on_event(Event::PhaseEnded);
                return Ok(None);
            }
            let batch_episodes = play_episodes(
                &self.prepared.team.agents,
                self.environment(),
                tasks.batch(batch),
                episodes,
                self.protocol,
                &config,
                &mut |_| (),
            )?;
            all.played.extend(batch_episodes.played);
            all.left_out.extend(batch_episodes.left_out);
            done += batch.len();
            observer.on_event(Event::PhaseAdvanced { done });
        }
        observer.on_event(Event::PhaseEnded);
        let conditions = Conditions {
            environment: self.environment(),
            protocol: self.protocol,
            step: self.step,
            samples: self.recipe.evaluation.samples,
            discount: self.prepared.discount(),
            secs: started.elapsed().as_secs_f64(),
        };
        Ok(Some(conditions.summarize(&all)))
    }

    fn environment(&self) -> &dyn Environment {
        self.prepared.environment.as_ref()
    }
}

/// The conditions under which the episodes of an evaluation were played.
struct Conditions<'a> {
    environment: &'a dyn Environment,
    protocol: &'a Protocol,
    step: Option<usize>,
    /// Episodes per task.
    samples: usize,
    discount: f64,
    /// How long all episodes took.
    secs: f64,
}

impl Conditions<'_> {
    /// Summarizes the episodes.
    fn summarize(&self, episodes: &Episodes) -> EvaluationRecord {
        let Self {
            environment, secs, ..
        } = *self;
        let played = &episodes.played;
        // Tokens of episodes that were left out because a prompt did not fit are counted too.
        let with_left_out = || played.iter().chain(&episodes.left_out);
        let completion_tokens = with_left_out()
            .map(|episode| episode.completion_tokens)
            .sum();
        let to_record = |episode| record(environment, episode, self.discount);
        let evaluation = EvaluationRecord {
            step: self.step,
            protocol: self.protocol.name.to_string(),
            roles: role_summaries(environment, played),
            samples: self.samples,
            skipped_episodes: episodes.left_out.len(),
            cut_episodes: played.iter().filter(|episode| episode.is_cut).count(),
            completion_tokens,
            prompt_tokens: with_left_out().map(|episode| episode.prompt_tokens).sum(),
            timing: EvaluationTiming {
                secs,
                tokens_per_sec: completion_tokens as f64 / secs,
                ..EvaluationTiming::default()
            },
            episodes: played.iter().map(to_record).collect(),
            ..EvaluationRecord::default()
        };
        evaluation.summarized(environment.reward_parts())
    }
}

/// The record of an episode in the run directory.
fn record(environment: &dyn Environment, episode: &Episode, discount: f64) -> EpisodeRecord {
    let parts = |part_of: &dyn Fn(&Reward, &str) -> Option<f64>| {
        let part = |name: &String| {
            let value = |reward: &Reward| part_of(reward, name).unwrap_or(0.0);
            (name.clone(), episode.discounted(discount, value))
        };
        environment.reward_parts().iter().map(part).collect()
    };
    let role_return = |(index, role): (usize, &Role)| {
        let role_return = RoleReturn {
            episode_return: episode.discounted(discount, |reward| reward.total_of(index)),
            parts: parts(&|reward, name| reward.part_of(index, name)),
        };
        (role.name.clone(), role_return)
    };
    let is_per_role = episode
        .rewards
        .iter()
        .any(|reward| reward.role_count().is_some());
    let roles = environment.roles().iter().enumerate();
    let texts_of = |turn: &Turn| {
        let responses = turn.action.responses.iter();
        responses
            .map(|response| response.text.to_string())
            .collect()
    };
    EpisodeRecord {
        task: episode.task.clone(),
        episode_return: episode.discounted(discount, Reward::total),
        parts: parts(&|reward, name| reward.part(name)),
        roles: match is_per_role {
            true => roles.map(role_return).collect(),
            false => IndexMap::new(),
        },
        solved: episode
            .rewards
            .last()
            .and_then(|last| environment.is_solved(last)),
        turns: episode.turns.iter().map(texts_of).collect(),
    }
}

/// Statistics of each role's responses.
fn role_summaries(
    environment: &dyn Environment,
    episodes: &[Episode],
) -> IndexMap<String, RoleSummary> {
    let summarize = |(index, role): (usize, &Role)| {
        let responses = || episodes.iter().flat_map(|episode| episode.responses(index));
        let length = |response: &Response| response.tokens.len() as f64;
        let lengths: Vec<f64> = responses().map(length).collect();
        let is_truncated =
            |response: &Response| f64::from(u8::from(response.finish == FinishReason::Length));
        let truncated: Vec<f64> = responses().map(is_truncated).collect();
        let summary = RoleSummary {
            completion_length: mean(&lengths),
            truncated_fraction: mean(&truncated),
            ..RoleSummary::default()
        };
        (role.name.clone(), summary)
    };
    let roles = environment.roles().iter().enumerate();
    roles.map(summarize).collect()
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
            unreachable!("the test has the episodes already")
        }

        fn step(
            &self,
            _task: &Task,
            _past: &[Turn],
            _action: &JointAction,
        ) -> Result<Outcome, EnvironmentError> {
            unreachable!("the test has the episodes already")
        }
    }

    fn pair() -> Pair {
        Pair {
            roles: ["first", "second"].map(Role::new),
            parts: ["style".to_owned()],
        }
    }

    /// An episode with these rewards. At every turn the first role wrote three tokens, and the response of
    /// the second was cut off after five.
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
    fn episodes_are_summarized_by_task() {
        let cut = Episode {
            is_cut: true,
            ..episode("a", &[0.25])
        };
        let episodes = Episodes {
            played: vec![episode("a", &[0.5, 1.0]), cut, episode("b", &[1.0])],
            left_out: vec![episode("b", &[])],
        };
        let pair = pair();
        let conditions = Conditions {
            environment: &pair,
            protocol: &Protocol::parallel(),
            step: Some(4),
            samples: 2,
            discount: 0.5,
            secs: 2.0,
        };
        let record = conditions.summarize(&episodes);
        // The returns of task a are 0.5 + 0.5 · 1.0 and 0.25; that of task b is 1.0.
        assert_eq!((record.tasks, record.samples), (2, 2));
        assert_eq!(record.mean_return.mean, (0.625 + 1.0) / 2.0);
        assert_eq!(record.parts["style"], record.mean_return);
        // One episode of b is missing, so its pass@2 is not known.
        let rates: Vec<(usize, f64)> = record
            .pass_at
            .iter()
            .map(|(k, rate)| (*k, rate.mean))
            .collect();
        assert_eq!(rates, [(1, 0.75), (2, 1.0)]);
        assert_eq!((record.skipped_episodes, record.cut_episodes), (1, 1));
        assert_eq!((record.completion_tokens, record.prompt_tokens), (32, 80));
        assert_eq!(
            (record.timing.tokens_per_sec, record.timing.secs_per_task),
            (16.0, 1.0)
        );
        let summary = |completion_length, truncated_fraction| RoleSummary {
            completion_length,
            truncated_fraction,
            ..RoleSummary::default()
        };
        assert_eq!(record.roles["first"], summary(3.0, 0.0));
        assert_eq!(record.roles["second"], summary(5.0, 1.0));
        let scalars = record.scalars();
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
            scalars,
            expected.map(|(name, value)| (name.to_owned(), value))
        );
        let episodes = record.episodes.iter();
        let solved: Vec<Option<bool>> = episodes.map(|episode| episode.solved).collect();
        assert_eq!(solved, [Some(true), Some(false), Some(true)]);
    }

    #[test]
    fn rewards_per_role_are_kept_beside_their_mean() {
        let rewards = [[("style", 1.0)], [("style", 0.5)]];
        let episode = Episode {
            rewards: vec![Reward::per_role(rewards)],
            ..episode("a", &[0.0])
        };
        let record = record(&pair(), &episode, 1.0);
        assert_eq!(record.episode_return, 0.75);
        assert_eq!(record.parts["style"], 0.75);
        assert_eq!(record.roles["first"].episode_return, 1.0);
        assert_eq!(record.roles["second"].parts["style"], 0.5);
    }
}
