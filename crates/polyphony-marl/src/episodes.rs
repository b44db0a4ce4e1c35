//! Whole episodes, each a single line of turns: a team is judged by them, and learns from the trees of
//! a [rollout](crate::rollout()).
//!
//! Agents answer without knowing of one another, as they do in training, or read one another's answers
//! first, as a [`Protocol`] says: the untrained baselines of the MAGRPO paper (arXiv 2508.04652).

use std::{borrow::Cow, ops::Range};

use polyphony_episode::{
    Environment, JointAction, Next, Observation, Response, Reward, Role, Turn,
};
use polyphony_model::{LanguageModel, PromptGroup, StreamKey};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{
    MarlError,
    agent::{Agent, player, roles_of},
    rollout::{IndexedTask, ResponseConfig, answer, check_reward, check_team, sampling_models},
    tree::History,
};

/// Who reads whose answers before a joint action is complete.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// Nobody reads anything: as in training.
    #[default]
    Parallel,
    /// The agents answer one after the other, and each reads the answers before its own.
    Pipeline,
    /// Every agent writes a draft, reads the drafts of the others, and revises its own once.
    Discussion,
}

/// How episodes are played.
#[derive(Clone, Debug)]
pub struct EpisodeConfig {
    /// Episodes of each task.
    pub episodes: usize,
    /// Who reads whose answers.
    pub protocol: Protocol,
    /// How agents answer.
    pub responses: ResponseConfig,
    /// Seed and step of the random numbers; the rest of the key is filled in.
    pub key: StreamKey,
}

/// An episode that was played.
#[derive(Clone, Debug, PartialEq)]
pub struct Episode {
    /// The task's identifier.
    pub task: String,
    /// Its number among the task's episodes, counted from 0.
    pub number: usize,
    /// What the environment told each agent, and what the joint action was, at every turn. Drafts and
    /// what the agents read of one another are not part of it.
    pub turns: Vec<Turn>,
    /// What each joint action earned.
    pub rewards: Vec<Reward>,
    /// Tokens that the agents sampled, drafts included.
    pub sampled_tokens: usize,
    /// Tokens that they read: the histories that they answered, each counted whole.
    pub read_tokens: usize,
    /// Whether it would have gone on, had the next prompt fitted.
    pub is_cut: bool,
}

impl Episode {
    /// The responses of one role, a turn each.
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
    /// Those without a single joint action, since a prompt did not fit.
    pub left_out: Vec<Episode>,
}

/// Plays every task some times from beginning to end, all of them together. `on_tokens` is told of every
/// batch of new tokens.
///
/// # Errors
/// If the environment fails, a prompt does not fit and shall not be skipped, or generation fails.
pub fn play_episodes(
    agents: &[Agent],
    environment: &dyn Environment,
    tasks: &[IndexedTask<'_>],
    config: &EpisodeConfig,
    on_tokens: &mut dyn FnMut(usize),
) -> Result<Episodes, MarlError> {
    let stage = Stage {
        agents,
        models: sampling_models(agents, config.responses.weights)?,
        environment,
        config,
    };
    let mut open = stage.open(tasks)?;
    let mut over = Vec::new();
    let horizon = environment.horizon().get();
    for turn in 0..horizon {
        over.extend(stage.act(&mut open, turn, on_tokens)?);
        open = stage.score(open)?;
        if let Some(beyond) = open.iter().find(|open| open.goes_on && turn + 1 == horizon) {
            return Err(MarlError::BeyondHorizon {
                task: beyond.episode.task.clone(),
                horizon,
            });
        }
        over.extend(open.extract_if(.., |open| !open.goes_on));
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
    config: &'a EpisodeConfig,
}

/// An episode that is being played.
struct Open<'a> {
    /// The place of its task among those that are played.
    place: usize,
    task: IndexedTask<'a>,
    /// What the environment has told each role.
    told: Vec<Observation>,
    /// What each role has read and said last.
    said: Vec<Option<(History, Response)>>,
    goes_on: bool,
    episode: Episode,
}

/// What a role is told in an episode.
type Message = fn(&Open<'_>, &[Role], usize) -> Observation;

impl<'a> Stage<'a> {
    fn open(&self, tasks: &[IndexedTask<'a>]) -> Result<Vec<Open<'a>>, MarlError> {
        let mut open = Vec::new();
        for (place, &task) in tasks.iter().enumerate() {
            let told = self.environment.start(task.task)?;
            check_team(self.agents, self.environment.roles(), &told)?;
            open.extend((0..self.config.episodes).map(|number| Open {
                place,
                task,
                told: told.clone(),
                said: vec![None; told.len()],
                goes_on: true,
                episode: Episode {
                    task: task.task.id.clone(),
                    number,
                    turns: Vec::new(),
                    rewards: Vec::new(),
                    sampled_tokens: 0,
                    read_tokens: 0,
                    is_cut: false,
                },
            }));
        }
        Ok(open)
    }

    /// Completes the joint action of every episode; returns those in which a prompt did not fit.
    fn act(
        &self,
        open: &mut Vec<Open<'a>>,
        turn: usize,
        on_tokens: &mut dyn FnMut(usize),
    ) -> Result<Vec<Open<'a>>, MarlError> {
        let all = 0..self.environment.roles().len();
        let rounds: Vec<(Range<usize>, Message)> = match self.config.protocol {
            Protocol::Parallel => vec![(all, alone)],
            Protocol::Pipeline => all
                .map(|role| (role..role + 1, after_others as Message))
                .collect(),
            Protocol::Discussion => vec![(all.clone(), alone), (all, revising)],
        };
        let mut stuck = Vec::new();
        for (round, (roles, message)) in rounds.into_iter().enumerate() {
            let key = StreamKey {
                turn: turn as u16,
                branch: round as u32,
                ..self.config.key
            };
            stuck.extend(self.speak(open, roles, message, key, on_tokens)?);
        }
        Ok(stuck)
    }

    /// Lets some roles answer a message in every episode; returns those in which it did not fit.
    fn speak(
        &self,
        open: &mut Vec<Open<'a>>,
        roles: Range<usize>,
        message: Message,
        key: StreamKey,
        on_tokens: &mut dyn FnMut(usize),
    ) -> Result<Vec<Open<'a>>, MarlError> {
        let mut ready = Vec::new();
        let mut stuck = Vec::new();
        for mut episode in std::mem::take(open) {
            let histories = roles
                .clone()
                .map(|role| self.history(&episode, role, message));
            let long_prompts = self.config.responses.long_prompts;
            match long_prompts.allow(histories.collect::<Result<Vec<_>, _>>())? {
                Some(histories) => ready.push((episode, histories)),
                None => {
                    episode.episode.is_cut = true;
                    stuck.push(episode);
                }
            }
        }
        let mut answers: Vec<Vec<Response>> = vec![Vec::new(); ready.len()];
        for (index, agent) in self.agents.iter().enumerate() {
            let played = roles_of(index, self.agents.len(), self.environment.roles().len());
            let played: Vec<usize> = played.filter(|role| roles.contains(role)).collect();
            let asked = played
                .iter()
                .flat_map(|role| ready.iter().map(move |ready| (*role, ready)));
            let groups: Vec<PromptGroup<'_>> = asked
                .map(|(role, (episode, histories))| PromptGroup {
                    prompt: &histories[role - roles.start].tokens,
                    samples: 1,
                    key: StreamKey {
                        task: episode.task.index as u32,
                        agent: role as u16,
                        sample: episode.episode.number as u32,
                        ..key
                    },
                })
                .collect();
            if groups.is_empty() {
                continue;
            }
            let responses = &self.config.responses;
            let samples = answer(agent, &self.models[index], &groups, responses, on_tokens)?;
            // Role after role, as they were asked.
            let samples = samples.into_iter().flatten().map(|sample| sample.response);
            for (place, response) in samples.enumerate() {
                answers[place % ready.len()].push(response);
            }
        }
        for ((mut episode, histories), answers) in ready.into_iter().zip(answers) {
            for ((role, history), said) in roles.clone().zip(histories).zip(answers) {
                episode.episode.read_tokens += history.tokens.len();
                episode.episode.sampled_tokens += said.tokens.len();
                episode.said[role] = Some((history, said));
            }
            open.push(episode);
        }
        Ok(stuck)
    }

    /// What a role's model reads, if a response fits after it.
    fn history(
        &self,
        open: &Open<'_>,
        role: usize,
        message: Message,
    ) -> Result<History, MarlError> {
        let roles = self.environment.roles();
        let agent = &self.agents[player(self.agents.len(), role)];
        let told = message(open, roles, role);
        let history = match &open.said[role] {
            None => agent.language.first_history(&roles[role], &told)?,
            Some((history, said)) => {
                agent
                    .language
                    .next_history(&roles[role], history, said, &told)?
            }
        };
        let new = self.config.responses.max_new_tokens;
        agent.check_room(&open.episode.task, &roles[role], &history, new)?;
        Ok(history)
    }

    /// Scores what was said last in every episode.
    fn score(&self, open: Vec<Open<'a>>) -> Result<Vec<Open<'a>>, MarlError> {
        let score = |mut open: Open<'a>| {
            let said = open.said.iter().flatten();
            let action = JointAction::new(said.map(|(_, said)| said.clone()).collect());
            let task = open.task.task;
            let outcome = self.environment.step(task, &open.episode.turns, &action)?;
            check_reward(self.environment, task, &action, &outcome.reward)?;
            open.episode.rewards.push(outcome.reward);
            open.episode.turns.push(Turn {
                observations: std::mem::take(&mut open.told),
                action,
            });
            match outcome.next {
                Next::End => open.goes_on = false,
                Next::Continue(told) => {
                    check_team(self.agents, self.environment.roles(), &told)?;
                    open.told = told;
                }
            }
            Ok(open)
        };
        open.into_par_iter().map(score).collect()
    }
}

/// What the environment tells a role.
fn alone(open: &Open<'_>, _roles: &[Role], role: usize) -> Observation {
    open.told[role].clone()
}

/// The same, with the answers of the roles before it.
fn after_others(open: &Open<'_>, roles: &[Role], role: usize) -> Observation {
    let mut text = open.told[role].text.to_string();
    for (name, answer) in answers(open, roles).take(role) {
        text += &format!("\n\nYour partner \"{name}\" has already answered:\n{answer}");
    }
    Observation::new(text)
}

/// The drafts of the others, and the request to revise one's own.
fn revising(open: &Open<'_>, roles: &[Role], role: usize) -> Observation {
    let mut text = String::new();
    for (index, (name, answer)) in answers(open, roles).enumerate() {
        if index != role {
            text += &format!("Your partner \"{name}\" has answered:\n{answer}\n\n");
        }
    }
    text += "Revise your own answer so that the two go well together. Write only the whole revised \
             answer.";
    Observation::new(text)
}

/// The name of each role and what it said last.
fn answers<'a>(open: &'a Open<'_>, roles: &'a [Role]) -> impl Iterator<Item = (&'a str, &'a str)> {
    let said = open
        .said
        .iter()
        .map(|said| said.as_ref().map_or("", |(_, said)| &*said.text));
    roles.iter().map(|role| role.name.as_str()).zip(said)
}

#[cfg(test)]
mod tests;
