//! What a run says of itself in `run.json`, beside its recipe.

use serde::{Deserialize, Serialize};

/// What must be known of a run to compare and show it, and cannot be read from its recipe without knowing
/// the environment and the algorithm.
///
/// Whoever makes a run writes it. A key that a file lacks is derived from the recipe, as far as it can be.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RunInfo {
    /// The program that made the run; `None` where that is not known.
    pub program: Option<ProgramInfo>,
    /// What was played.
    pub environment: EnvironmentInfo,
    /// The name of the held-out data set, for people.
    pub held_out: String,
    /// What learned.
    pub algorithm: AlgorithmInfo,
    /// Where all random numbers started from.
    pub seed: u64,
    /// Training steps that were planned.
    pub steps: usize,
    /// The models that the agents start from: one per agent.
    pub models: Vec<String>,
    /// Where a team was evaluated outside of its training, what is known of that training.
    pub training: Option<Box<RunInfo>>,
    /// The directory of that training.
    pub trained_from: Option<String>,
}

/// A program that makes runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProgramInfo {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
}

/// An environment, as far as reports need it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EnvironmentInfo {
    /// Its name in recipes, as `Coding`.
    pub name: String,
    /// A short name for directories and messages, as `coding` or `coding-solo`.
    pub label: String,
    /// The short name of what a team plays, also where a single agent does its work.
    pub team_name: String,
    /// The names of its roles.
    pub roles: Vec<String>,
    /// The most turns of an episode.
    pub horizon: usize,
    /// Whether a single agent does a team's work.
    pub is_single_agent: bool,
    /// The keys of its settings that change nothing that is played, such as a number of workers.
    pub operational_keys: Vec<String>,
}

/// An algorithm, as far as reports need it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AlgorithmInfo {
    /// Its name in recipes.
    pub name: String,
    /// What comparisons call it with its settings, as `MAGRPO`.
    pub method: String,
    /// What the reward of a turn is worth one turn earlier; evaluations count with it too.
    pub discount: f64,
}
