//! What can go wrong while a team learns.

use polyphony_episode::{EnvironmentError, Reward};
use polyphony_model::ModelError;
use thiserror::Error;

use crate::{communicator::CommunicationError, config::ConfigError};

/// Why a rollout or an update failed.
#[derive(Debug, Error)]
pub enum MarlError {
    /// A setting cannot work.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A model failed.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The environment failed.
    #[error(transparent)]
    Environment(#[from] EnvironmentError),
    /// The number of agents does not match the number of roles.
    #[error(
        "the environment has {roles} roles, but the team has {agents} agents: give one agent per \
         role, or one for all roles"
    )]
    TeamSize {
        /// Roles of the environment.
        roles: usize,
        /// Agents of the team.
        agents: usize,
    },
    /// The number of observations does not match the number of roles.
    #[error(
        "task `{task}`: the environment gave {observations} observations for turn {turn}, but must \
         give one for each of its roles: {}", roles.join(", ")
    )]
    Observations {
        /// The task.
        task: String,
        /// The turn that they are for, counted from 1.
        turn: usize,
        /// Observations that the environment gave.
        observations: usize,
        /// The roles of the environment.
        roles: Vec<String>,
    },
    /// There is no task with the requested index.
    #[error("there is no task {index}: the data set has {tasks}, counted from 0")]
    NoTask {
        /// The index.
        index: usize,
        /// Tasks of the data set.
        tasks: usize,
    },
    /// A number is too large for the key of a random stream.
    #[error("{number} {what} are more than there are streams of random numbers for")]
    TooMany {
        /// What is counted.
        what: &'static str,
        /// The count, or the index of one of them.
        number: usize,
    },
    /// An episode continues beyond its last turn.
    #[error(
        "task `{task}`: the environment continues after turn {horizon}, although its `horizon` allows no \
         more turns: let `horizon` return the most turns of an episode, or let `step` end the episode"
    )]
    BeyondHorizon {
        /// The task.
        task: String,
        /// The environment's `horizon`.
        horizon: usize,
    },
    /// A reward has a part that its environment did not announce.
    #[error(
        "task `{task}`: the environment gave the reward part `{part}`, which its `reward_parts` does \
         not name; it names: {}", known.join(", ")
    )]
    UnknownPart {
        /// The task.
        task: String,
        /// The part.
        part: String,
        /// The parts that were announced.
        known: Vec<String>,
    },
    /// A reward is not finite, or too large.
    #[error(
        "task `{task}`: the environment gave the reward part `{part}` the value {value:e}, but it must \
         be a number from -{largest:e} to {largest:e}: scale or clip it. The joint action was \
         {responses:?}",
        largest = Reward::LARGEST_PART
    )]
    RewardOutOfRange {
        /// The task.
        task: String,
        /// The part.
        part: String,
        /// Its value.
        value: f64,
        /// What the agents answered.
        responses: Vec<String>,
    },
    /// The number of rewards does not match the number of roles.
    #[error(
        "task `{task}`: the environment gave {rewards} rewards, but has {roles} roles: give one per \
         role, or one that all of them share"
    )]
    RewardCount {
        /// The task.
        task: String,
        /// Rewards that the environment gave.
        rewards: usize,
        /// Roles of the environment.
        roles: usize,
    },
    /// A prompt does not fit into an agent's context.
    #[error(
        "task `{task}`: the prompt of agent `{agent}` has {prompt} tokens and a response may have \
         {new}, but the model's context holds {max_positions}: shorten the task, lower \
         `max_new_tokens`, or leave it out with `long_prompts: Skip`"
    )]
    PromptTooLong {
        /// The task.
        task: String,
        /// The agent.
        agent: String,
        /// Tokens of the prompt.
        prompt: usize,
        /// The maximum number of tokens of a response.
        new: usize,
        /// Tokens that the context holds.
        max_positions: usize,
    },
    /// A divergence has to be measured, but no reference has scored the responses.
    #[error(
        "`kl` measures a divergence from a reference, but no reference has scored the responses: call \
         `score_references` first, or set `kl: Off`"
    )]
    NotScoredByReference,
    /// A response without an advantage cannot be learned from.
    #[error("a response has no advantage: give each sample one before the update")]
    NoAdvantage,
    /// An advantage needs the value of its history.
    #[error("a history has no value: let a critic give each group one before the update")]
    NoValue,
    /// Rollout and training disagree about the same tokens.
    #[error(
        "agent `{agent}` on {device}: the log-probability of a sampled token differs by {gap:.4} \
         between rollout and training, more than `logprob_tolerance` {tolerance}: the update would \
         be biased. Raise the tolerance only if the device is known to be that imprecise"
    )]
    LogprobGap {
        /// The agent.
        agent: String,
        /// The device of its weights.
        device: String,
        /// The largest difference, in nats.
        gap: f64,
        /// The difference allowed.
        tolerance: f64,
    },
    /// Too many gradient steps in a row were skipped.
    #[error(
        "agent `{agent}`: {in_a_row} gradient steps in a row were skipped because the loss or gradient \
         was not finite: lower `learning_rate` or `max_grad_norm`"
    )]
    NotFinite {
        /// The agent.
        agent: String,
        /// Skipped gradient steps in a row.
        in_a_row: usize,
    },
    /// Another rank failed, so this one cannot continue either.
    #[error("rank {rank} failed: {message}")]
    OtherRank {
        /// The first rank that failed.
        rank: usize,
        /// Its error.
        message: String,
    },
    /// Ranks could not communicate.
    #[error(transparent)]
    Communication(#[from] CommunicationError),
    /// A message between ranks could not be written or read.
    #[error("a message between ranks cannot be used: {0}")]
    Message(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A rank was given the wrong number of agents.
    #[error("rank {rank} has {agents} agents, but its place in the grid is that of {expected}")]
    AgentsOfRank {
        /// The rank.
        rank: usize,
        /// The number of agents that it must hold.
        expected: usize,
        /// The number of agents that it was given.
        agents: usize,
    },
    /// A saved state belongs to another algorithm or team.
    #[error("the saved state of the algorithm does not fit: {reason}")]
    State {
        /// What does not fit.
        reason: String,
    },
    /// Any other failure of an algorithm.
    #[error("{message}")]
    Algorithm {
        /// What failed, and what would help.
        message: String,
        /// The underlying error, if there is one.
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
}

impl MarlError {
    /// A saved state does not fit.
    pub fn state(reason: impl Into<String>) -> Self {
        Self::State {
            reason: reason.into(),
        }
    }

    /// A message between ranks cannot be used.
    pub(crate) fn message(error: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Message(Box::new(error))
    }

    /// The message, followed by those of the underlying errors, for another rank.
    pub(crate) fn with_sources(&self) -> String {
        let mut text = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(error) = source {
            text = format!("{text}: {error}");
            source = error.source();
        }
        text
    }

    /// An error of your own algorithm. The message says what failed, and what would help.
    pub fn algorithm(message: impl Into<String>) -> Self {
        Self::Algorithm {
            message: message.into(),
            source: None,
        }
    }
}
