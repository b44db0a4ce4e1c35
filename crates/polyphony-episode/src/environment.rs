//! The trait that a new environment implements.

use std::num::NonZeroUsize;

use thiserror::Error;

use crate::{JointAction, Observation, Reward, Role, Task, TaskError, Turn};

/// A cooperative task for a team of language models.
///
/// An environment holds no episode state: [`Environment::step`] is given everything that happened
/// before. So one episode can branch into many, branches can be scored on several threads, and a
/// stored rollout can be scored again.
///
/// The caller guarantees that a joint action holds one response a role.
pub trait Environment: Send + Sync {
    /// The agents' roles. Their number is the team's size.
    fn roles(&self) -> &[Role];

    /// The names of the parts that rewards may have, in the order of reports.
    fn reward_parts(&self) -> &[&'static str];

    /// The most turns of an episode, `H`: by then [`Environment::step`] ends it.
    fn horizon(&self) -> NonZeroUsize {
        NonZeroUsize::MIN
    }

    /// Whether a joint action with this reward has done the task in full; `None` where the environment
    /// has no such notion. Evaluation counts it as passed.
    fn is_solved(&self, _reward: &Reward) -> Option<bool> {
        None
    }

    /// What each agent is told first, one observation a role.
    ///
    /// # Errors
    /// If the task lacks something that the environment needs.
    fn start(&self, task: &Task) -> Result<Vec<Observation>, EnvironmentError>;

    /// Scores a joint action and decides what comes next. `past` holds the turns before it, on
    /// this branch of the episode.
    ///
    /// # Errors
    /// If scoring is impossible. A bad response is not an error but a low reward.
    fn step(
        &self,
        task: &Task,
        past: &[Turn],
        action: &JointAction,
    ) -> Result<Outcome, EnvironmentError>;
}

/// What a joint action led to.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// The reward that all agents share.
    pub reward: Reward,
    /// How the episode goes on.
    pub next: Next,
}

/// How an episode goes on after a turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// It is over.
    End,
    /// One new observation a role.
    Continue(Vec<Observation>),
}

impl Outcome {
    /// The episode is over.
    pub fn end(reward: Reward) -> Self {
        Self {
            reward,
            next: Next::End,
        }
    }

    /// The episode goes on with one observation a role.
    pub fn go_on(reward: Reward, observations: Vec<Observation>) -> Self {
        Self {
            reward,
            next: Next::Continue(observations),
        }
    }
}

/// Why an environment could not start or score an episode.
#[derive(Debug, Error)]
pub enum EnvironmentError {
    /// The task lacks a field.
    #[error(transparent)]
    Task(#[from] TaskError),
    /// Anything else: what failed, and what would help.
    #[error("{0}")]
    Failed(String),
}
