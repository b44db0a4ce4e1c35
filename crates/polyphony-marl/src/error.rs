//! What can go wrong while a team learns.

use polyphony_episode::EnvironmentError;
use polyphony_model::ModelError;
use thiserror::Error;

use crate::config::ConfigError;

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
    /// Team, roles and observations differ in number.
    #[error(
        "the environment has {roles} roles and made {observations} observations, but the team has \
         {agents} agents: give one agent a role, or one for all roles"
    )]
    TeamSize {
        /// Roles of the environment.
        roles: usize,
        /// Agents of the team.
        agents: usize,
        /// Observations that the environment made.
        observations: usize,
    },
    /// An episode goes on when it should be over.
    #[error(
        "task `{task}`: the environment goes on after turn {horizon}, but says with `horizon` that it \
         has no more turns: let `horizon` give the most turns of an episode, or let `step` end it"
    )]
    BeyondHorizon {
        /// The task.
        task: String,
        /// The turns that the environment says it has.
        horizon: usize,
    },
    /// A reward has a part that its environment did not announce.
    #[error(
        "the environment gave the reward part `{part}`, which its `reward_parts` does not name"
    )]
    UnknownPart {
        /// The part.
        part: String,
    },
    /// A reward is not a number to learn from.
    #[error(
        "task `{task}`: the environment gave the reward part `{part}` the value {value}: a reward \
         must be finite. The joint action was {responses:?}"
    )]
    RewardNotFinite {
        /// The task.
        task: String,
        /// The part.
        part: String,
        /// Its value.
        value: f64,
        /// What the agents said.
        responses: Vec<String>,
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
        /// The most tokens of a response.
        new: usize,
        /// Tokens that the context holds.
        max_positions: usize,
    },
    /// A divergence counts, but there is nothing to measure it from.
    #[error(
        "agent `{agent}` keeps no reference, from which `kl` measures its divergence: make it with \
         `Agent::with_reference`"
    )]
    NoReference {
        /// The agent.
        agent: String,
    },
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
    /// Updates kept failing.
    #[error(
        "agent `{agent}`: {in_a_row} updates in a row were refused because the loss or gradient \
         was not finite: lower `learning_rate` or `max_gradient_norm`"
    )]
    NotFinite {
        /// The agent.
        agent: String,
        /// Refused updates in a row.
        in_a_row: usize,
    },
}
