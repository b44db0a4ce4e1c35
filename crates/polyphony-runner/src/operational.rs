//! Operational settings: those that change how an environment, a data set or the whole run is executed, such as a
//! number of workers, but do not affect any episode beyond rounding.

use anyhow::Result;

use crate::{recipe::Recipe, registry::Registry};

/// How ranks share a run. The format of their gradients is not among these: it rounds what agents learn.
const SHARING: [&str; 2] = ["parallel.replicas", "parallel.warn_after_secs"];

/// The paths of a recipe's operational settings: those of its environment and its data sets, and how ranks share
/// the run.
///
/// # Errors
/// If something that the recipe names is not registered, or its settings cannot be read.
pub(crate) fn operational_keys(registry: &Registry, recipe: &Recipe) -> Result<Vec<String>> {
    let environment_keys = registry.environment_operational_keys(&recipe.environment)?;
    let mut sections = vec![("environment", environment_keys)];
    for (section, source) in [("train", &recipe.train), ("held_out", &recipe.held_out)] {
        if let Some(source) = source {
            let keys = registry.read_source(source)?.settings.operational_keys();
            sections.push((section, keys));
        }
    }
    let mut paths = SHARING.map(str::to_owned).to_vec();
    for (section, keys) in sections {
        paths.extend(keys.iter().map(|key| format!("{section}.{key}")));
    }
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use polyphony_episode::{Environment, EnvironmentError, EnvironmentSettings, Task, TaskSource};
    use serde::Serialize;

    use super::*;
    use crate::{
        choice::Choice,
        fixture::{SameLength, recipe, registry},
    };

    #[test]
    fn operational_keys_are_those_of_the_team_and_of_the_data() {
        #[derive(Default, Serialize, serde::Deserialize)]
        #[serde(default)]
        struct Parallel {
            workers: usize,
        }
        impl EnvironmentSettings for Parallel {
            fn build(&self) -> Result<Box<dyn Environment>, EnvironmentError> {
                SameLength::default().build()
            }

            fn operational_keys(&self) -> &'static [&'static str] {
                &["workers"]
            }
        }
        #[derive(Default, Serialize, serde::Deserialize)]
        #[serde(default)]
        struct Bounded {
            most: usize,
        }
        impl TaskSource for Bounded {
            fn load(&self) -> Result<Vec<Task>, Box<dyn std::error::Error + Send + Sync>> {
                Ok(vec![Task::new("a", [("x", "y")])])
            }

            fn label(&self) -> String {
                "bounded".to_owned()
            }

            fn operational_keys(&self) -> &'static [&'static str] {
                &["most"]
            }
        }
        let registry = registry()
            .environment::<Parallel>("Parallel")
            .task_source::<Bounded>("Bounded");
        let keys = |environment: &str, held_out: Option<&str>| {
            let recipe = Recipe {
                environment: Choice::from_ron(environment).unwrap(),
                train: None,
                held_out: held_out.map(|text| Choice::from_ron(text).unwrap()),
                ..recipe(&[])
            };
            operational_keys(&registry, &recipe).unwrap()
        };
        let expected = |own: &[&'static str]| [&SHARING[..], own].concat();
        let workers = "environment.workers";
        for environment in ["Parallel(workers: 2)", "SingleAgent(Parallel)"] {
            assert_eq!(keys(environment, None), expected(&[workers]));
        }
        assert_eq!(keys("SameLength", None), expected(&[]));
        let both = keys("Parallel", Some("Bounded(most: 3)"));
        assert_eq!(both, expected(&[workers, "held_out.most"]));
    }
}
