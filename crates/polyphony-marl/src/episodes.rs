//! Whole episodes, each a single sequence of turns, for evaluation. (A team learns from the trees of a
//! [rollout](crate::rollout()).)
//!
//! Agents answer independently, as they do in training, or read one another's answers first, as a
//! [`Protocol`] specifies.

use std::{borrow::Cow, ops::Range};

use polyphony_episode::{
    Environment, JointAction, Next, Observation, Response, Reward, Task, Turn,
};
use polyphony_model::{LanguageModel, PromptGroup};

use crate::{
    MarlError,
    agent::{Agent, agent_of_role, roles_of},
    checks::{check_observations, check_reward},
    config::TrainingConfig,
    protocol::{Message, Order, Protocol},
    rollout::{answer, sampling_models},
    stream::{EVALUATION_STEP, StreamId, narrow},
    tasks::{Batch, BatchTask},
    threads::on_threads,
    tree::History,
};

/// An episode that was played.
#[derive(Clone, Debug, PartialEq)]
pub struct Episode {
    /// The task's identifier.
    pub task: String,
    /// Its number among the task's episodes, counted from 0.
    pub number: usize,
    /// What each agent read from the environment, and the joint action, at every turn. Drafts and what
    /// the agents read from one another are not part of it.
    pub turns: Vec<Turn>,
    /// What each joint action earned.
    pub rewards: Vec<Reward>,
    /// Tokens that the agents sampled, drafts included.
    pub completion_tokens: usize,
    /// Tokens that they read: the histories that they answered, each counted in full.
    pub prompt_tokens: usize,
    /// Whether it would have continued if the next prompt had fitted.
    pub is_cut: bool,
}

impl Episode {
    /// The responses of one role, one per turn.
    pub fn responses(&self, role: usize) -> impl Iterator<Item = &Response> {
        let turns = self.turns.iter();
        turns.map(move |turn| &turn.action.responses[role])
    }

    /// The discounted sum of its rewards, `Σ_t γ^t r_t`.
    pub fn discounted(&self, discount: f64, reward: impl Fn(&Reward) -> f64) -> f64 {
        let later = |sum: f64, own: &Reward| reward(own) + discount * sum;
        self.rewards.iter().rev().fold(0.0, later)
    }
}

/// The episodes of some tasks.
#[derive(Clone, Debug, Default)]
pub struct Episodes {
    /// Those that were played, in the order of tasks and numbers.
    pub played: Vec<Episode>,
    /// Those without a single joint action, because a prompt did not fit.
    pub left_out: Vec<Episode>,
}

/// Plays every task of a batch `episodes` times from beginning to end, all of them together, with random
/// numbers that depend on the seed alone and differ from those of training. `on_tokens` is called with
/// the size of every batch of new tokens.
///
/// # Errors
/// If the environment fails, a prompt does not fit and may not be skipped, or generation fails.
pub fn play_episodes(
    agents: &[Agent],
    environment: &dyn Environment,
    batch: Batch<'_>,
    episodes: usize,
    protocol: &Protocol,
    config: &TrainingConfig,
    on_tokens: &mut dyn FnMut(usize),
) -> Result<Episodes, MarlError> {
    let stage = Stage {
        agents,
        models: sampling_models(agents, config.weights)?,
        environment,
        protocol,
        config,
    };
    let (mut open, mut over) = stage.open(batch, episodes)?;
    let horizon = environment.horizon().get();
    for turn in 0..horizon {
        over.extend(stage.act(&mut open, turn, on_tokens)?);
        open = stage.score(open)?;
        if turn + 1 == horizon
            && let Some(beyond) = open.iter().find(|open| open.continues)
        {
            return Err(MarlError::BeyondHorizon {
                task: beyond.episode.task.clone(),
                horizon,
            });
        }
        over.extend(open.extract_if(.., |open| !open.continues));
        if open.is_empty() {
            break;
        }
    }
    over.sort_by_key(|over| (over.place, over.episode.number));
    let episodes = over.into_iter().map(|over| over.episode);
    let (played, left_out) = episodes.partition(|episode| !episode.turns.is_empty());
    Ok(Episodes { played, left_out })
}

/// What all episodes are played with.
struct Stage<'a> {
    agents: &'a [Agent],
    /// What each agent samples with.
    models: Vec<Cow<'a, LanguageModel>>,
    environment: &'a dyn Environment,
    protocol: &'a Protocol,
    config: &'a TrainingConfig,
}

/// An episode that is being played.
struct Open<'a> {
    /// The place of its task among those that are played.
    place: usize,
    task: &'a Task,
    /// The task's index in the data set.
    index: u32,
    /// What each role reads.
    observations: Vec<Observation>,
    /// What the model of each role reads at the first turn, until somebody has answered.
    first: Vec<History>,
    /// What each role has read and answered last.
    answered: Vec<Option<(History, Response)>>,
    continues: bool,
    episode: Episode,
}

impl<'a> Open<'a> {
    /// The last answer of each role, empty before its first.
    fn answers(&self) -> Vec<&str> {
        let answered = self.answered.iter();
        answered
            .map(|own| own.as_ref().map_or("", |(_, answer)| &*answer.text))
            .collect()
    }
}

impl Stage<'_> {
    /// The episodes of all tasks that can be begun, and those that cannot.
    fn open<'b>(
        &self,
        batch: Batch<'b>,
        episodes: usize,
    ) -> Result<(Vec<Open<'b>>, Vec<Open<'b>>), MarlError> {
        let mut open = Vec::new();
        let first_turns = batch.first_turns(self.agents, self.environment, self.config)?;
        for (place, own) in first_turns.into_iter().enumerate() {
            let BatchTask { index, task, first } = own;
            let index = narrow("tasks", index)?;
            let begins = first.is_some();
            let (observations, first) = match first {
                Some(first) => (first.observations, first.histories),
                None => (Vec::new(), Vec::new()),
            };
            open.extend((0..episodes).map(|number| Open {
                place,
                task,
                index,
                observations: observations.clone(),
                first: first.clone(),
                answered: vec![None; observations.len()],
                continues: begins,
                episode: Episode {
                    task: task.id.clone(),
                    number,
                    turns: Vec::new(),
                    rewards: Vec::new(),
                    completion_tokens: 0,
                    prompt_tokens: 0,
                    is_cut: !begins,
                },
            }));
        }
        Ok(open.into_iter().partition(|open| open.continues))
    }

    /// Completes the joint action of every episode; returns those in which a prompt did not fit.
    fn act<'b>(
        &self,
        open: &mut Vec<Open<'b>>,
        turn: usize,
        on_tokens: &mut dyn FnMut(usize),
    ) -> Result<Vec<Open<'b>>, MarlError> {
        let all = 0..self.environment.roles().len();
        let mut stuck = Vec::new();
        let mut number = 0;
        for round in &self.protocol.rounds {
            let parts: Vec<Range<usize>> = match round.order {
                Order::AtOnce => vec![all.clone()],
                Order::InTurn => all.clone().map(|role| role..role + 1).collect(),
            };
            for roles in parts {
                let place = StreamId {
                    seed: self.config.seed,
                    step: EVALUATION_STEP,
                    turn: narrow("turns", turn)?,
                    branch: number,
                    ..StreamId::default()
                };
                stuck.extend(self.speak(open, roles, &round.message, place, on_tokens)?);
                number += 1;
            }
        }
        Ok(stuck)
    }

    /// Lets some roles answer a message in every episode; returns those in which it did not fit.
    fn speak<'b>(
        &self,
        open: &mut Vec<Open<'b>>,
        roles: Range<usize>,
        message: &Message,
        place: StreamId,
        on_tokens: &mut dyn FnMut(usize),
    ) -> Result<Vec<Open<'b>>, MarlError> {
        let mut ready = Vec::new();
        let mut stuck = Vec::new();
        for mut episode in std::mem::take(open) {
            let histories = roles
                .clone()
                .map(|role| self.history(&episode, role, message));
            let long_prompts = self.config.long_prompts;
            match long_prompts.allow(histories.collect::<Result<Vec<_>, _>>())? {
                Some(histories) => ready.push((episode, histories)),
                None => {
                    episode.episode.is_cut = true;
                    stuck.push(episode);
                }
            }
        }
        let answers = self.answers(&ready, &roles, place, on_tokens)?;
        for ((mut episode, histories), answers) in ready.into_iter().zip(answers) {
            for ((role, history), answer) in roles.clone().zip(histories).zip(answers) {
                episode.episode.prompt_tokens += history.tokens.len();
                episode.episode.completion_tokens += answer.tokens.len();
                episode.answered[role] = Some((history, answer));
            }
            open.push(episode);
        }
        Ok(stuck)
    }

    /// For each episode the answers of some roles to their histories.
    fn answers(
        &self,
        ready: &[(Open<'_>, Vec<History>)],
        roles: &Range<usize>,
        place: StreamId,
        on_tokens: &mut dyn FnMut(usize),
    ) -> Result<Vec<Vec<Response>>, MarlError> {
        let mut answers: Vec<Vec<Response>> = vec![Vec::new(); ready.len()];
        for (index, agent) in self.agents.iter().enumerate() {
            let played = roles_of(index, self.agents.len(), self.environment.roles().len());
            let played = played.filter(|role| roles.contains(role));
            let asked = played.flat_map(|role| ready.iter().map(move |ready| (role, ready)));
            let groups = asked.map(|(role, (episode, histories))| {
                let place = StreamId {
                    task: episode.index,
                    role: narrow("roles", role)?,
                    sample: narrow("episodes of a task", episode.episode.number)?,
                    ..place
                };
                Ok(PromptGroup {
                    prompt: &histories[role - roles.start].tokens,
                    keys: vec![place.key()],
                    family: place.family(),
                })
            });
            let groups = groups.collect::<Result<Vec<_>, MarlError>>()?;
            if groups.is_empty() {
                continue;
            }
            let samples = answer(agent, &self.models[index], &groups, self.config, on_tokens)?;
            // Role after role, as they were asked.
            let samples = samples.into_iter().flatten().map(|sample| sample.response);
            for (place, response) in samples.enumerate() {
                answers[place % ready.len()].push(response);
            }
        }
        Ok(answers)
    }

    /// What a role's model reads, if a response fits after it.
    fn history(
        &self,
        open: &Open<'_>,
        role: usize,
        message: &Message,
    ) -> Result<History, MarlError> {
        let roles = self.environment.roles();
        let agent = &self.agents[agent_of_role(self.agents.len(), role)];
        let history = match (&open.answered[role], message) {
            (None, Message::Observation) => open.first[role].clone(),
            (answered, message) => {
                let text = message.to(role, roles, &open.observations[role], &open.answers());
                match answered {
                    None => agent.codec.first_history(&roles[role], &text)?,
                    Some((history, answer)) => {
                        agent
                            .codec
                            .next_history(&roles[role], history, answer, &text)?
                    }
                }
            }
        };
        let new = self.config.max_new_tokens;
        agent.check_room(&open.episode.task, &roles[role], &history, new)?;
        Ok(history)
    }

    /// Scores the last joint action of every episode.
    fn score<'b>(&self, open: Vec<Open<'b>>) -> Result<Vec<Open<'b>>, MarlError> {
        let roles = self.environment.roles();
        on_threads(self.environment.concurrency(), open, |mut open| {
            let answered = open.answered.iter().flatten();
            let action = JointAction::new(answered.map(|(_, answer)| answer.clone()).collect());
            let past = &open.episode.turns;
            let outcome = self.environment.step(open.task, past, &action)?;
            check_reward(self.environment, open.task, &action, &outcome.reward)?;
            open.episode.rewards.push(outcome.reward);
            open.episode.turns.push(Turn {
                observations: std::mem::take(&mut open.observations),
                action,
            });
            match outcome.next {
                Next::End => open.continues = false,
                Next::Continue(observations) => {
                    let turn = open.episode.turns.len();
                    check_observations(roles, open.task, turn, &observations)?;
                    open.observations = observations;
                }
            }
            Ok(open)
        })
    }
}

#[cfg(test)]
mod tests;
