//! What a run reports about itself in `run.json`.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

/// What must be known about a run to compare and show it, but cannot be read from its recipe without knowing
/// the environment and the algorithm.
///
/// The training loop writes it. A key that the file lacks is derived from the recipe if possible.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RunInfo {
    /// The program that made the run; `None` if it is not known.
    pub program: Option<ProgramInfo>,
    /// The environment.
    pub environment: EnvironmentInfo,
    /// A readable name of the held-out data set.
    pub held_out: String,
    /// The paths of settings that do not affect the results, such as a number of workers.
    pub operational_keys: Vec<String>,
    /// The algorithm.
    pub algorithm: AlgorithmInfo,
    /// The seed of all random numbers.
    pub seed: u64,
    /// The planned number of training steps.
    pub steps: usize,
    /// The models that the agents start from: one per agent.
    pub models: Vec<String>,
    /// The ranks that made the run; `None` if there was only one.
    pub ranks: Option<RanksInfo>,
    /// In a saved evaluation of a trained team, the info of the training run.
    pub training: Option<Box<RunInfo>>,
    /// The directory of that training run.
    pub trained_from: Option<String>,
}

/// The processes that make a run together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RanksInfo {
    /// Their number.
    pub ranks: usize,
    /// The number of parts into which the agents are divided.
    pub parts: usize,
    /// The number of ranks that hold the same agents.
    pub replicas: usize,
    /// The library that connects them, and its version.
    pub library: Option<String>,
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
    /// Its name in recipes, such as `Coding`.
    pub name: String,
    /// A short name for directories and messages, such as `coding` or `coding-single-agent`.
    pub label: String,
    /// Its name in comparisons: its label, or that of the team's environment if a single agent does a team's
    /// work.
    #[serde(alias = "team_name")]
    pub comparison_name: String,
    /// The names of its roles.
    pub roles: Vec<String>,
    /// The maximum number of turns in an episode.
    pub horizon: usize,
    /// Whether a single agent does a team's work.
    pub is_single_agent: bool,
}

impl EnvironmentInfo {
    /// The names of its roles, for lookups.
    pub(crate) fn role_names(&self) -> HashSet<&str> {
        self.roles.iter().map(String::as_str).collect()
    }
}

/// An algorithm, as far as reports need it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AlgorithmInfo {
    /// Its name in recipes.
    pub name: String,
    /// Its name in comparisons, such as `MAGRPO`.
    pub method: String,
    /// The discount of rewards per turn; it changes evaluations too.
    pub discount: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_former_name_of_a_key_is_read() {
        let info: EnvironmentInfo = serde_json::from_str(r#"{"team_name": "tldr"}"#).unwrap();
        assert_eq!(info.comparison_name, "tldr");
    }
}
