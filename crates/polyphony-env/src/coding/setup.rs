//! The settings from which a recipe builds the coding environment.

use std::sync::Arc;

use polyphony_episode::{Environment, EnvironmentError, EnvironmentSettings};
use polyphony_sandbox::{Pool, SandboxConfig, Tier};
use serde::{Deserialize, Serialize};

use super::{CodingEnvironment, CodingSettings};

/// The coding environment as a recipe configures it: the episodes, and the sandbox for the programs.
///
/// ```
/// # use polyphony_env::Coding;
/// let recipe = "(settings: (turns: 2), sandbox: (workers: Some(4)))";
/// let setup: Coding = ron::from_str(recipe)?;
/// assert_eq!((setup.settings.turns.get(), setup.sandbox.workers), (2, Some(4)));
/// assert_eq!(ron::from_str::<Coding>("()")?, Coding::default());
/// # Ok::<(), ron::error::SpannedError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Coding {
    /// The settings of an episode.
    pub settings: CodingSettings,
    /// The sandbox that runs the programs.
    pub sandbox: SandboxConfig,
}

impl EnvironmentSettings for Coding {
    fn build(&self) -> Result<Box<dyn Environment>, EnvironmentError> {
        let pool = Arc::new(start_pool(&self.sandbox)?);
        let coding = CodingEnvironment::new(pool, self.settings.clone()).map_err(|error| {
            EnvironmentError::because("the coding environment's `settings` cannot be used", error)
        })?;
        Ok(Box::new(coding))
    }

    /// Only the number of workers. Limits, isolation and the interpreter may decide which programs pass.
    fn operational_keys(&self) -> &'static [&'static str] {
        &["sandbox.workers"]
    }
}

/// Starts a sandbox, and logs how it isolates programs.
///
/// # Errors
/// If the sandbox cannot be started. The error says what failed and what would help.
pub fn start_pool(settings: &SandboxConfig) -> Result<Pool, EnvironmentError> {
    let pool = Pool::start(settings).map_err(|error| {
        EnvironmentError::because(
            "the coding environment's `sandbox` cannot be started",
            error,
        )
    })?;
    let python = pool.interpreter();
    match pool.tier() {
        Tier::Off => log::warn!(
            "programs that the models write run WITHOUT isolation, because of `isolation: Off`: they \
             can do whatever you can (Python {} at {})",
            python.version,
            python.path.display()
        ),
        tier => log::info!(
            "programs run in the sandbox's {tier} tier, with Python {} at {}",
            python.version,
            python.path.display()
        ),
    }
    Ok(pool)
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use super::*;

    #[test]
    fn missing_keys_of_a_recipe_have_their_defaults() {
        let read = |text: &str| ron::from_str::<Coding>(text);
        let setup = read("(sandbox: (workers: Some(3)))").unwrap();
        assert_eq!(setup.settings, CodingSettings::default());
        assert_eq!(read(&ron::to_string(&setup).unwrap()).unwrap(), setup);
        assert!(read("(sandboxes: ())").is_err());
    }

    #[test]
    fn operational_keys_are_keys() {
        let setup = Coding::default();
        let written = serde_json::to_value(&setup).unwrap();
        for key in setup.operational_keys() {
            let pointer = format!("/{}", key.replace('.', "/"));
            assert!(written.pointer(&pointer).is_some(), "{key}");
        }
    }

    #[test]
    fn a_pool_without_workers_is_refused_with_its_source() {
        let mut setup = Coding::default();
        setup.sandbox.workers = Some(0);
        let error = setup.build().err().unwrap();
        assert_eq!(
            error.to_string(),
            "the coding environment's `sandbox` cannot be started"
        );
        let source = error.source().unwrap().to_string();
        assert_eq!(source, "the sandbox has 0 workers; set at least 1");
    }

    #[test]
    fn a_built_environment_describes_its_sandbox() {
        let mut setup = Coding::default();
        setup.sandbox.workers = Some(3);
        let coding = setup.build().unwrap();
        assert_eq!(coding.concurrency().get(), 3);
        let description = coding.description().unwrap();
        assert!(
            description["interpreter"]["version"].is_string(),
            "{description}"
        );
        let keys = coding.counters().len();
        assert_eq!(keys, 6);
    }
}
