//! Checks a recipe: every number, and that its parts fit together.

use anyhow::{Result, bail, ensure};
use polyphony_episode::Environment;
use polyphony_marl::{AlgorithmSettings, ConfigError, EnvironmentSpec, MAX_SAMPLES, MomentFormat};
use polyphony_model::ModelError;

use super::{Recipe, TeamModels};
use crate::{device::Devices, registry::Registry, team::agent_names};

/// Steps are numbered with 32 bits; evaluation uses the last number.
const MAX_STEPS: usize = u32::MAX as usize - 1;

/// Longer than any model's context.
const MAX_NEW_TOKENS: usize = 1 << 24;

impl Recipe {
    /// Checks every number, and everything else that does not depend on the environment.
    ///
    /// # Errors
    /// Names the path of the key, its value, and what is allowed.
    pub fn validate(&self, registry: &Registry) -> Result<()> {
        let algorithm = registry.read_algorithm(&self.algorithm)?.settings;
        self.validate_with(algorithm.as_ref())
    }

    /// Does the same as [`Recipe::validate`]. `algorithm` holds the settings of the recipe's algorithm.
    pub(crate) fn validate_with(&self, algorithm: &dyn AlgorithmSettings) -> Result<()> {
        let config = self.training_config();
        algorithm
            .validate(&config)
            .map_err(setting_of("algorithm"))?;
        self.updates.validate().map_err(setting_of("updates"))?;
        self.sampling.validate().map_err(in_section("sampling"))?;
        if let Some(lora) = self.fine_tuning.lora() {
            lora.validate().map_err(in_section("fine_tuning"))?;
        }
        self.validate_counts()?;
        if let (TeamModels::Shared(_), Devices::Each(_)) = (&self.team, &self.devices) {
            bail!(
                "`devices` lists devices, but a team that shares one model runs on one: give \
                 `devices: Same(…)`"
            );
        }
        for (key, is_empty) in [
            ("team", self.team.names().is_empty()),
            ("devices", self.devices.of_team(1).is_empty()),
        ] {
            ensure!(
                !is_empty,
                "`{key}` is Each([]), but must list one for each role"
            );
        }
        let is_empty = |model: &&str| model.trim().is_empty();
        ensure!(
            !self.team.names().iter().any(is_empty),
            "`team` holds an empty name, but must name models"
        );
        Ok(())
    }

    fn validate_counts(&self) -> Result<()> {
        for (path, value) in [
            ("tasks_per_step", self.tasks_per_step),
            ("evaluation.tasks", self.evaluation.tasks),
            ("checkpoints.every", self.checkpoints.every),
            ("checkpoints.keep", self.checkpoints.keep),
            ("parallel.replicas", self.parallel.replicas.unwrap_or(1)),
        ] {
            if value == 0 {
                return Err(out_of_range(path, "0", "at least 1"));
            }
        }
        for (path, value, most) in [
            ("max_new_tokens", self.max_new_tokens, MAX_NEW_TOKENS),
            ("steps", self.steps, MAX_STEPS),
            ("evaluation.samples", self.evaluation.samples, MAX_SAMPLES),
            (
                "evaluation.every",
                self.evaluation.every.unwrap_or(1),
                MAX_STEPS,
            ),
        ] {
            if !(1..=most).contains(&value) {
                let allowed = format!("from 1 to {most}");
                return Err(out_of_range(path, &value.to_string(), &allowed));
            }
        }
        Ok(())
    }

    /// Checks what training needs beyond [`Recipe::validate`]. `algorithm` holds the settings of the recipe's
    /// algorithm.
    ///
    /// # Errors
    /// Names the path of the key, its value, and what is allowed.
    pub fn validate_for_training(&self, algorithm: &dyn AlgorithmSettings) -> Result<()> {
        if self.sampling.temperature == 0.0 && algorithm.sampling_plan().samples > 1 {
            return Err(out_of_range(
                "sampling.temperature",
                "0",
                "above 0 for training: without randomness all responses of a group are equal, and \
                 nothing can be learned from comparing them",
            ));
        }
        if self.updates.moments == MomentFormat::Int8
            && let Some(device) = self.devices.first_other_than_cpu()
        {
            let allowed = format!("F32 on {device}: only the CPU can train with 8-bit moments");
            return Err(out_of_range("updates.moments", "Int8", &allowed));
        }
        Ok(())
    }

    /// Checks that the recipe fits the environment's roles and turns. `algorithm` holds the settings of the
    /// recipe's algorithm.
    ///
    /// # Errors
    /// Names the path of the key, its value, and what is allowed.
    pub fn validate_for(
        &self,
        registry: &Registry,
        algorithm: &dyn AlgorithmSettings,
        environment: &dyn Environment,
    ) -> Result<()> {
        let roles = environment.roles();
        algorithm
            .validate_for(&EnvironmentSpec::of(environment))
            .map_err(setting_of("algorithm"))?;
        let check_one_per_role = |key: &str, given: usize, what: &str| {
            let plural = if given == 1 { "" } else { "s" };
            let names: Vec<&str> = roles.iter().map(|role| role.name.as_str()).collect();
            ensure!(
                given == roles.len(),
                "`{key}` lists {given} {what}{plural}, but must list {}, one for each role of {}: {}",
                roles.len(),
                registry.label(&self.environment),
                names.join(", ")
            );
            Ok(())
        };
        if let TeamModels::Each(models) = &self.team {
            check_one_per_role("team", models.len(), "model")?;
        }
        if let Devices::Each(devices) = &self.devices {
            check_one_per_role("devices", devices.len(), "device")?;
        }
        let names = agent_names(&self.team, roles);
        let mut rates = self.updates.learning_rates.keys();
        if let Some(unknown) = rates.find(|name| !names.contains(name)) {
            bail!(
                "`updates.learning_rates` names `{unknown}`, but the agents are called {}",
                names.join(", ")
            );
        }
        Ok(())
    }
}

/// Adds the section of the recipe to an error about a setting of the algorithm or of the updates.
fn setting_of(section: &str) -> impl Fn(ConfigError) -> anyhow::Error {
    move |error| {
        // An algorithm may also reject a setting in the section `updates`.
        let path = match error.key.starts_with("updates.") {
            true => error.key.to_string(),
            false => format!("{section}.{}", error.key),
        };
        out_of_range(&path, &error.given, &error.allowed)
    }
}

/// Adds the section of the recipe to an error of the model crate about a setting.
fn in_section(section: &str) -> impl Fn(ModelError) -> anyhow::Error {
    move |error| match error {
        ModelError::Setting {
            key,
            given,
            allowed,
        } => out_of_range(&format!("{section}.{key}"), &given, allowed),
        other => other.into(),
    }
}

fn out_of_range(path: &str, given: &str, allowed: &str) -> anyhow::Error {
    anyhow::anyhow!("`{path}` is {given}, but must be {allowed}")
}
