//! A recipe: everything that decides what a training run does, as one RON file.
//!
//! Start reading at [`Recipe`]; `docs/recipes.md` describes every key for users. [`Recipe::load`]
//! reads a recipe that ships with the program or a file, applies `--set path=value`, and checks
//! every number, so whoever holds a recipe may rely on its ranges.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail, ensure};
use indexmap::IndexMap;
use polyphony_env::Source;
use polyphony_marl::{
    Algorithm, ConfigError, LongPrompts, MOST_SAMPLES, ResponseConfig, RolloutWeights, Updates,
};
use polyphony_model::{LoraConfig, ModelError, Projection, Sampling, StreamKey};
use serde::{Deserialize, Serialize};

use crate::{
    device::{DeviceChoice, Devices},
    environment::EnvironmentKind,
    team::agent_names,
};

mod explain;
mod overrides;
mod shipped;

pub use shipped::{DEFAULT_NAME, Shipped, shipped};

/// What a training run does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Where all random numbers of the run start from.
    #[serde(default)]
    pub seed: u64,
    /// What the agents do together.
    pub environment: EnvironmentKind,
    /// The tasks to train on.
    pub train: Source,
    /// The tasks to evaluate on, before and after.
    pub held_out: Source,
    /// The models that the agents start from.
    pub team: Team,
    /// How responses are drawn.
    #[serde(default)]
    pub sampling: Sampling,
    /// The longest response, in tokens.
    pub max_new_tokens: usize,
    /// What weights are made of while responses are sampled.
    #[serde(default)]
    pub rollout_weights: RolloutWeights,
    /// What is done with a prompt that does not fit into the model's context.
    #[serde(default)]
    pub long_prompts: LongPrompts,
    /// What is sampled and what is maximized.
    #[serde(default)]
    pub algorithm: Algorithm,
    /// How weights are changed.
    #[serde(default)]
    pub updates: Updates,
    /// Training steps.
    pub steps: usize,
    /// Tasks that a step plays. Agents change their weights when they have `updates.buffer` nodes.
    #[serde(default = "one")]
    pub tasks_per_step: usize,
    /// How the team is judged.
    #[serde(default)]
    pub evaluation: Evaluation,
    /// What is kept so that a run can go on after it was stopped.
    #[serde(default)]
    pub checkpoints: Checkpoints,
    /// Which weights learn.
    #[serde(default)]
    pub fine_tuning: FineTuning,
    /// Where the models run.
    #[serde(default)]
    pub devices: Devices,
}

fn one() -> usize {
    1
}

/// Which weights learn.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum FineTuning {
    /// All of them.
    #[default]
    Full,
    /// Low-rank adapters, which need far less memory.
    Lora {
        /// The adapters' rank.
        #[serde(default = "default_rank")]
        rank: usize,
        /// What an adapter adds is multiplied by `alpha / rank`.
        #[serde(default = "default_alpha")]
        alpha: f64,
        /// The projections that have one.
        #[serde(default = "default_targets")]
        targets: Vec<Projection>,
    },
}

fn default_rank() -> usize {
    LoraConfig::default().rank
}

fn default_alpha() -> f64 {
    LoraConfig::default().alpha
}

fn default_targets() -> Vec<Projection> {
    LoraConfig::default().targets
}

impl FineTuning {
    /// The adapters' settings, if there are to be any.
    pub fn lora(&self) -> Option<LoraConfig> {
        match self {
            Self::Full => None,
            Self::Lora {
                rank,
                alpha,
                targets,
            } => Some(LoraConfig {
                rank: *rank,
                alpha: *alpha,
                targets: targets.clone(),
            }),
        }
    }
}

/// The models that the agents start from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Team {
    /// Every agent starts as its own copy of one model.
    Copies(String),
    /// One model for each agent, in the order of the environment's roles.
    Each(Vec<String>),
    /// One agent plays all roles with one model, which learns from each.
    Shared(String),
}

/// How the team is judged on held-out tasks, before and after training and between.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Evaluation {
    /// The held-out tasks to use, from the first; all where there are fewer.
    pub tasks: usize,
    /// Episodes of each task.
    pub samples: usize,
    /// Steps from one evaluation to the next; `None` for none but the first and the last.
    pub every: Option<usize>,
}

impl Evaluation {
    /// Whether the team is judged between its first and its last step, after so many.
    pub(crate) fn is_due(&self, steps: usize) -> bool {
        self.every.is_some_and(|every| steps.is_multiple_of(every))
    }
}

impl Default for Evaluation {
    fn default() -> Self {
        Self {
            tasks: 32,
            samples: 2,
            every: None,
        }
    }
}

/// What is kept so that a run can go on after it was stopped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Checkpoints {
    /// Steps from one checkpoint to the next. There is also one after the last step.
    pub every: usize,
    /// How many are kept, the newest ones.
    pub keep: usize,
}

impl Default for Checkpoints {
    fn default() -> Self {
        Self { every: 20, keep: 1 }
    }
}

impl Team {
    /// The model of each agent in a team for `roles` roles. A list must have that length, which
    /// [`Recipe::validate`] ensures.
    pub fn models(&self, roles: usize) -> Vec<&str> {
        match self {
            Self::Copies(model) => vec![model; roles],
            Self::Each(models) => models.iter().map(String::as_str).collect(),
            Self::Shared(model) => vec![model],
        }
    }
}

/// Steps are numbered in 32 bits, and the last number is the evaluation's.
const MOST_STEPS: usize = u32::MAX as usize - 1;

/// More than any model's context.
const MOST_NEW_TOKENS: usize = 1 << 24;

impl Recipe {
    /// Reads a recipe, applies overrides of the form `path=value`, and checks it.
    ///
    /// `which` is the name of a recipe that ships with the program, or a file; `None` is the
    /// default recipe.
    ///
    /// # Errors
    /// Names the file and the line, or the override, with what is allowed there.
    pub fn load(which: Option<&str>, overrides: &[String]) -> Result<Self> {
        let (label, text) = read(which.unwrap_or(DEFAULT_NAME))?;
        let mut recipe = Self::from_ron(&text).with_context(|| format!("reading {label}"))?;
        for change in overrides {
            recipe =
                overrides::apply(&recipe, change).with_context(|| format!("--set {change}"))?;
        }
        recipe.validate().with_context(|| match overrides {
            [] => format!("checking {label}"),
            _ => format!("checking {label} with --set {}", overrides.join(" --set ")),
        })?;
        Ok(recipe)
    }

    /// Parses a recipe, without checking its numbers.
    ///
    /// # Errors
    /// Names the line, and for a key that does not exist the nearest one that does.
    pub fn from_ron(text: &str) -> Result<Self> {
        reader()
            .from_str(text)
            .map_err(|error| explain::in_file(&error))
    }

    /// The recipe as RON, every key spelled out; [`Recipe::from_ron`] gives back an equal one.
    pub fn to_ron(&self) -> String {
        let layout = ron::ser::PrettyConfig::new().struct_names(false);
        let text = ron::ser::to_string_pretty(self, layout);
        text.expect("a recipe holds numbers, texts, lists and maps of texts: RON has them all")
    }

    /// Every setting by its path, such as `updates.learning_rate`, as it stands in RON, on one line.
    pub(crate) fn settings(&self) -> IndexMap<String, String> {
        let text = ron::ser::to_string(self);
        overrides::settings(&text.expect("a recipe holds what RON has, as above"))
    }

    /// Checks every number and what must fit together.
    ///
    /// # Errors
    /// Names the key by its path, what it is and what it may be.
    pub fn validate(&self) -> Result<()> {
        self.algorithm.validate().map_err(setting_of("algorithm"))?;
        self.updates.validate().map_err(setting_of("updates"))?;
        self.updates
            .validate_with(&self.algorithm)
            .map_err(setting_of("updates"))?;
        self.sampling.validate().map_err(in_section("sampling"))?;
        if let Some(lora) = self.fine_tuning.lora() {
            lora.validate().map_err(in_section("fine_tuning"))?;
        }
        for (path, value) in [
            ("tasks_per_step", self.tasks_per_step),
            ("evaluation.tasks", self.evaluation.tasks),
            ("checkpoints.every", self.checkpoints.every),
            ("checkpoints.keep", self.checkpoints.keep),
        ] {
            if value == 0 {
                return Err(out_of_range(path, "0", "at least 1"));
            }
        }
        for (path, value, most) in [
            ("max_new_tokens", self.max_new_tokens, MOST_NEW_TOKENS),
            ("steps", self.steps, MOST_STEPS),
            ("evaluation.samples", self.evaluation.samples, MOST_SAMPLES),
            (
                "evaluation.every",
                self.evaluation.every.unwrap_or(1),
                MOST_STEPS,
            ),
        ] {
            if !(1..=most).contains(&value) {
                let allowed = format!("from 1 to {most}");
                return Err(out_of_range(path, &value.to_string(), &allowed));
            }
        }
        self.validate_trees()?;
        self.validate_team()
    }

    /// Checks what training needs beyond [`Recipe::validate`].
    ///
    /// # Errors
    /// Names the key by its path, what it is and what it may be.
    pub fn validate_for_training(&self) -> Result<()> {
        if self.sampling.temperature == 0.0 && self.algorithm.samples > 1 {
            return Err(out_of_range(
                "sampling.temperature",
                "0",
                "above 0 for training: without chance all responses of a group are equal, and \
                 nothing can be learnt from comparing them",
            ));
        }
        Ok(())
    }

    /// Checks that the trees of training are small enough to play.
    fn validate_trees(&self) -> Result<()> {
        let (roles, turns) = (self.environment.roles().len(), self.environment.horizon());
        let fits = self.algorithm.validate_for(roles, turns.get());
        fits.map_err(setting_of("algorithm"))
    }

    /// How agents answer, in training as in evaluation.
    pub(crate) fn responses(&self) -> ResponseConfig {
        ResponseConfig {
            sampling: self.sampling.clone(),
            max_new_tokens: self.max_new_tokens,
            weights: self.rollout_weights,
            long_prompts: self.long_prompts,
        }
    }

    /// The random numbers of a step.
    pub(crate) fn stream_key(&self, step: u32) -> StreamKey {
        StreamKey {
            seed: self.seed,
            step,
            ..StreamKey::default()
        }
    }

    fn validate_team(&self) -> Result<()> {
        if let EnvironmentKind::Solo(team) = &self.environment {
            ensure!(
                !matches!(**team, EnvironmentKind::Solo(_)),
                "`environment` is a Solo of a Solo, but must be one of a team"
            );
        }
        let roles = self.environment.roles();
        let roles: Vec<&str> = roles.iter().map(|role| role.name.as_str()).collect();
        let one_each = |key: &str, given: usize, what: &str| {
            ensure!(
                given == roles.len(),
                "`{key}` lists {given} {what}, but must list {}, one for each role of {}: {}",
                roles.len(),
                self.environment.name(),
                roles.join(", ")
            );
            Ok(())
        };
        if let Team::Each(models) = &self.team {
            one_each("team", models.len(), "models")?;
        }
        match (&self.team, &self.devices) {
            (Team::Shared(_), Devices::Each(_)) => bail!(
                "`devices` lists devices, but a team that shares one model runs on one: give \
                 `devices: Same(…)`"
            ),
            (_, Devices::Each(devices)) => one_each("devices", devices.len(), "devices")?,
            (_, Devices::Same(_)) => {}
        }
        let named =
            |name: &&String| agent_names(&self.team, &self.environment.roles()).contains(name);
        if let Some(unknown) = self.updates.learning_rates.keys().find(|name| !named(name)) {
            bail!(
                "`updates.learning_rates` names `{unknown}`, but the agents are called {}",
                agent_names(&self.team, &self.environment.roles()).join(", ")
            );
        }
        for model in self.team.models(roles.len()) {
            ensure!(
                !model.trim().is_empty(),
                "`team` holds an empty name, but must name models"
            );
        }
        let devices = self.devices.of_team(roles.len());
        ensure!(
            self.rollout_weights == RolloutWeights::Full || !devices.contains(&DeviceChoice::Cpu),
            "`rollout_weights` is {:?}, but must be Full on the CPU, which gains nothing from less",
            self.rollout_weights
        );
        Ok(())
    }
}

/// An algorithm's setting with the path of its key in the recipe.
fn setting_of(section: &str) -> impl Fn(ConfigError) -> anyhow::Error {
    move |error| {
        let path = format!("{section}.{}", error.key);
        out_of_range(&path, &error.given, error.allowed)
    }
}

/// A model's setting with the path of its key in the recipe.
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

/// RON as recipes use it: `top_k: 50` is as good as `top_k: Some(50)`.
pub(crate) fn reader() -> ron::Options {
    ron::Options::default().with_default_extension(ron::extensions::Extensions::IMPLICIT_SOME)
}

/// The label and the text of a recipe that ships with the program, or of a file.
fn read(which: &str) -> Result<(String, String)> {
    if let Some(recipe) = shipped().iter().find(|recipe| recipe.name == which) {
        return Ok((format!("recipe `{}`", recipe.name), recipe.text.to_owned()));
    }
    let path = PathBuf::from(which);
    if !path.exists() {
        let names: Vec<&str> = shipped().iter().map(|recipe| recipe.name).collect();
        let nearest = explain::nearest(which, &names);
        bail!(
            "`{which}` is neither a recipe that ships with polyphony ({}) nor a file that exists{}",
            names.join(", "),
            nearest.map_or_else(String::new, |name| format!("; did you mean `{name}`?"))
        );
    }
    let text = std::fs::read_to_string(&path).with_context(|| format!("reading {which}"))?;
    Ok((which.to_owned(), text))
}

fn out_of_range(path: &str, given: &str, allowed: &str) -> anyhow::Error {
    anyhow::anyhow!("`{path}` is {given}, but must be {allowed}")
}

#[cfg(test)]
mod tests;
