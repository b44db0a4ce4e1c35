//! For the unit tests: a registry with one small environment, and a recipe for it.

use polyphony_episode::{
    Environment, EnvironmentError, EnvironmentSettings, FnEnvironment, Reward, Role,
};
use polyphony_marl::Magrpo;
use serde::{Deserialize, Serialize};

use crate::{recipe::Recipe, registry::Registry};

/// Two agents should answer equally long.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct SameLength {
    pub(crate) weight: f64,
    pub(crate) labels: Vec<String>,
}

impl Default for SameLength {
    fn default() -> Self {
        Self {
            weight: 1.0,
            labels: Vec::new(),
        }
    }
}

impl EnvironmentSettings for SameLength {
    fn build(&self) -> Result<Box<dyn Environment>, EnvironmentError> {
        if self.weight == 0.0 {
            return Err(EnvironmentError::failed("`weight` is 0"));
        }
        let weight = self.weight;
        let roles = ["left", "right"].map(Role::new);
        let environment = FnEnvironment::new(roles, ["equal"], move |_task, action| {
            let [left, right] = action.texts();
            let equal = f64::from(u8::from(left.len() == right.len()));
            Ok(Reward::new([("equal", weight * equal)]))
        });
        Ok(Box::new(environment))
    }
}

/// A recipe for the environment.
pub(crate) const TEXT: &str = r#"(
    environment: SameLength(),
    team: Copies("tiny"),
    max_new_tokens: 96,
    algorithm: Magrpo(samples: 8),
    steps: 4,
)
"#;

/// A registry with the environment and a recipe for it.
pub(crate) fn registry() -> Registry {
    Registry::new()
        .environment::<SameLength>("SameLength")
        .single_agent("SingleAgent", |team| team)
        .algorithm::<Magrpo>("Magrpo")
        .recipe("same-length", TEXT)
}

/// The recipe with these changes.
pub(crate) fn recipe(changes: &[&str]) -> Recipe {
    let changes: Vec<String> = changes.iter().map(|&change| change.to_owned()).collect();
    Recipe::load(&registry(), None, &changes).unwrap()
}
