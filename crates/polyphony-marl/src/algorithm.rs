//! The interface of an algorithm: what it samples, how it learns from a rollout, which state a checkpoint
//! keeps, and how much memory it needs.
//!
//! A recipe names [`AlgorithmSettings`], which build the [`Algorithm`]. Optimizers, buffers, references,
//! critics and everything else that learning needs belong to the algorithm; agents hold only their
//! policies.

use std::borrow::Cow;

use polyphony_episode::{Environment, Metric};
use polyphony_model::{LoraConfig, ModelConfig, Precision};

use crate::{
    MarlError,
    agent::Agent,
    config::{ConfigError, TrainingConfig},
    rollout::Rollout,
    saved_state::{AlgorithmState, SavedState},
    team::Team,
    tree::SamplingPlan,
};

/// An algorithm while it trains a team.
pub trait Algorithm: Send {
    /// What to sample in the next step.
    fn sampling_plan(&self) -> SamplingPlan;

    /// Learns from one step's rollout, and returns metrics with their units and meanings. If it writes
    /// advantages to the samples of `rollout`, the caller adds metrics about them.
    ///
    /// If several ranks train the team, `agents` are those of this rank, and `rollout` and `step.spec` have only the roles
    /// that these agents play. The groups of `rollout` are recorded with what this function adds to them; other
    /// changes stay on this rank.
    ///
    /// # Errors
    /// If an update fails. Other agents may have been updated by then; the agent whose update failed keeps
    /// the weights of its last gradient step. If agents have replicas, all of them must fail together: an error that
    /// only one of them can have, such as that of a file, must be shared with
    /// [`RankGroup::agree`](crate::RankGroup::agree) on [`Agent::replicas`].
    fn learn(
        &mut self,
        agents: &mut [Agent],
        rollout: &mut Rollout,
        step: &StepContext<'_>,
        on_progress: &mut dyn FnMut(Progress),
    ) -> Result<Vec<Metric>, MarlError>;

    /// Everything that learning has changed besides the agents' weights.
    ///
    /// # Errors
    /// If it cannot be serialized.
    fn state(&self, agents: &[Agent]) -> Result<AlgorithmState, MarlError>;

    /// Restores a state.
    ///
    /// # Errors
    /// If the state does not fit, or a tensor cannot be read.
    fn restore(&mut self, agents: &[Agent], saved: &SavedState<'_>) -> Result<(), MarlError>;

    /// The number of gradient steps taken so far, summed over the agents.
    fn gradient_steps(&self) -> usize;
}

/// Settings of an algorithm, as a recipe gives them.
pub trait AlgorithmSettings {
    /// Checks every number, and that the settings are compatible with how the run samples and updates.
    ///
    /// # Errors
    /// Names the first setting that cannot work, its value and the values that are allowed.
    fn validate(&self, config: &TrainingConfig) -> Result<(), ConfigError>;

    /// Checks that the algorithm can learn in this environment, with its roles and turns.
    ///
    /// # Errors
    /// Names the first setting that cannot work, its value and the values that are allowed.
    fn validate_for(&self, spec: &EnvironmentSpec) -> Result<(), ConfigError>;

    /// The name of the method for a team of this many roles, as comparisons show it: MAGRPO, GRPO.
    fn method(&self, roles: usize) -> String;

    /// What to sample, as far as it is known before the algorithm is built: for checks, the memory estimate
    /// and the discount of evaluations. Steps use [`Algorithm::sampling_plan`].
    fn sampling_plan(&self) -> SamplingPlan;

    /// Whether the algorithm must see all agents and all roles, for example because a critic reads the histories of all.
    /// Then the agents cannot be spread over several ranks, although they can have replicas.
    fn needs_whole_team(&self) -> bool {
        false
    }

    /// The memory that the algorithm needs for one agent, besides the agent's weights.
    fn memory(&self, agent: &AgentSpec, config: &TrainingConfig) -> AlgorithmMemory;

    /// Makes the algorithm, before its first step. The agents have their initial weights when this is called.
    /// An algorithm that needs these weights later, for example as a reference, must copy them here, even
    /// if a saved state is restored next.
    ///
    /// # Errors
    /// If a setting cannot work, or something that the algorithm needs cannot be made.
    fn build(
        &self,
        agents: &[Agent],
        spec: &EnvironmentSpec,
        config: &TrainingConfig,
    ) -> Result<Box<dyn Algorithm>, MarlError>;
}

/// What an algorithm knows about the environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnvironmentSpec {
    /// The names of the roles that the agents play. If agents are spread over several ranks, an algorithm sees
    /// only the agents of its rank, and only their roles.
    pub roles: Vec<String>,
    /// The maximum number of turns of an episode.
    pub horizon: usize,
    /// The index of the first of the agents in the whole team, from which keys of random streams are made.
    pub first_agent: usize,
}

impl EnvironmentSpec {
    /// The spec of an environment for the agents of a team that this process holds, and for their roles.
    pub fn of_team(team: &Team, environment: &dyn Environment) -> Self {
        let all = Self::of(environment);
        Self {
            roles: all.roles[team.roles(all.roles.len())].to_vec(),
            first_agent: team.ranks().agents(team.size()).start,
            ..all
        }
    }

    /// The spec of an environment.
    pub fn of(environment: &dyn Environment) -> Self {
        let roles = environment.roles().iter();
        Self {
            roles: roles.map(|role| role.name.clone()).collect(),
            horizon: environment.horizon().get(),
            first_agent: 0,
        }
    }
}

/// What an algorithm knows about the step in which it learns.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct StepContext<'a> {
    /// The step, counted from 0.
    pub step: usize,
    /// How the run samples and updates.
    pub config: &'a TrainingConfig,
    /// The environment that the team plays.
    pub spec: &'a EnvironmentSpec,
}

impl<'a> StepContext<'a> {
    /// A step of a run.
    pub fn new(step: usize, config: &'a TrainingConfig, spec: &'a EnvironmentSpec) -> Self {
        Self { step, config, spec }
    }
}

/// What a long step reports while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// This many tokens were sampled since the last report.
    Sampled(usize),
    /// All joint actions are scored. Up to this point, neither the agents nor the algorithm has changed.
    RolloutDone,
    /// This agent is being updated.
    Updating(usize),
}

/// What determines the memory that an agent needs. It is known before the agent's weights are read.
#[derive(Clone, Debug)]
pub struct AgentSpec {
    /// Its index in the team.
    pub index: usize,
    /// Its model's configuration.
    pub model: ModelConfig,
    /// Its LoRA configuration; `None` if all its weights are trained.
    pub lora: Option<LoraConfig>,
    /// The precision of its products.
    pub precision: Precision,
    /// The number of roles that it plays.
    pub roles: usize,
    /// Whether an earlier agent of the team starts from the same model on the same device. Both then start
    /// from one copy of these weights in memory. If reference models keep this copy, its memory is counted
    /// once, for the earlier agent.
    pub shares_initial_weights: bool,
    /// Tokens of the longest history at the last turn. `None` if that is not known yet; then memory that
    /// grows with tokens is not counted.
    pub longest_history_tokens: Option<usize>,
    /// Where it trains.
    pub device: ComputeDevice,
}

/// Where an agent trains, as far as memory depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ComputeDevice {
    /// On the CPU, where no memory is needed for attention scores: its kernel does not store them.
    Cpu,
    /// On a GPU, where attention scores are stored.
    Gpu,
}

/// The memory that an algorithm needs for one agent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AlgorithmMemory {
    /// Memory for the whole run: optimizer, reference, critic.
    pub lasting: Vec<MemoryNeed>,
    /// Memory during the agent's update only: gradients, activations.
    pub temporary: Vec<MemoryNeed>,
}

/// An amount of memory, and what it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryNeed {
    /// What it is for, as a plural or collective noun: "gradients".
    pub what: Cow<'static, str>,
    /// The amount, in bytes.
    pub bytes: u64,
}

impl MemoryNeed {
    /// An amount of memory, and what it is for.
    pub fn new(what: impl Into<Cow<'static, str>>, bytes: u64) -> Self {
        Self {
            what: what.into(),
            bytes,
        }
    }
}
