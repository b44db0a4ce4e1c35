//! A recipe: everything that decides what a training run does, as one RON file.
//!
//! Start reading at [`Recipe`]; `docs/recipes.md` describes every key for users. [`Recipe::load`] reads a
//! registered recipe or a file, applies `--set path=value`, lets the registered types read their own
//! settings, and checks every number. Code that gets a loaded recipe can therefore rely on the ranges.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, anyhow, bail};
use polyphony_marl::{AlgorithmSettings, LongPrompts, SumFormat, TrainingConfig, Updates};
use polyphony_model::{LoraConfig, Projection, Sampling};
use polyphony_report::ron_options;
use serde::{Deserialize, Serialize};

use crate::{
    choice::Choice, device::Devices, explain, precision::PrecisionChoice, registry::Registry,
};

mod overrides;
mod validate;

/// Everything that determines a training run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// The seed of all random numbers in the run.
    #[serde(default)]
    pub seed: u64,
    /// The environment in which the agents act.
    pub environment: Choice,
    /// The tasks to train on; `None` for the environment's own tasks.
    #[serde(default)]
    pub train: Option<Choice>,
    /// The held-out tasks to evaluate on; `None` for the environment's own tasks.
    #[serde(default)]
    pub held_out: Option<Choice>,
    /// The models that the agents start from.
    pub team: TeamModels,
    /// How responses are sampled.
    #[serde(default)]
    pub sampling: Sampling,
    /// The longest response, in tokens.
    pub max_new_tokens: usize,
    /// The precision of all models, in rollout and in training.
    #[serde(default)]
    pub precision: PrecisionChoice,
    /// What to do with prompts that do not fit into the model's context.
    #[serde(default)]
    pub long_prompts: LongPrompts,
    /// The algorithm; by default the first registered one.
    #[serde(default = "unnamed")]
    pub algorithm: Choice,
    /// How weights are updated.
    #[serde(default)]
    pub updates: Updates,
    /// The number of training steps.
    pub steps: usize,
    /// The number of tasks that a step plays. An agent updates its weights when its buffer holds
    /// `updates.buffer` nodes.
    #[serde(default = "one")]
    pub tasks_per_step: usize,
    /// How the team is evaluated.
    #[serde(default)]
    pub evaluation: EvaluationConfig,
    /// What is saved so that a stopped run can be resumed.
    #[serde(default)]
    pub checkpoints: Checkpoints,
    /// Which weights are trained.
    #[serde(default)]
    pub fine_tuning: FineTuning,
    /// Where the models run.
    #[serde(default)]
    pub devices: Devices,
    /// How several processes share the run.
    #[serde(default)]
    pub parallel: Parallel,
}

fn one() -> usize {
    1
}

/// A placeholder for the first registered algorithm until the recipe is resolved.
fn unnamed() -> Choice {
    Choice::new("")
}

/// Which weights are trained.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum FineTuning {
    /// All weights.
    #[default]
    Full,
    /// Only low-rank adapters (LoRA), which need much less memory.
    Lora {
        /// The rank of the adapters.
        #[serde(default = "default_rank")]
        rank: usize,
        /// The output of an adapter is multiplied by `alpha / rank`.
        #[serde(default = "default_alpha")]
        alpha: f64,
        /// The projections that get an adapter.
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
    /// The settings of the adapters, if adapters are trained.
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
pub enum TeamModels {
    /// Every agent starts as a copy of one model and learns separately.
    Copies(String),
    /// Every agent starts from its own model, listed in the order of the environment's roles.
    Each(Vec<String>),
    /// One agent plays all roles with one model, which learns from all of them.
    Shared(String),
}

/// How the team is evaluated on held-out tasks before, during and after training.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EvaluationConfig {
    /// How many held-out tasks to use, counted from the first; all of them if there are fewer.
    pub tasks: usize,
    /// Episodes per task.
    pub samples: usize,
    /// Steps from one evaluation to the next; `None` to evaluate only before the first and after the last
    /// step.
    pub every: Option<usize>,
}

impl EvaluationConfig {
    /// Whether the team is evaluated during training after this many steps.
    pub(crate) fn is_due(&self, steps: usize) -> bool {
        self.every.is_some_and(|every| steps.is_multiple_of(every))
    }
}

impl Default for EvaluationConfig {
    fn default() -> Self {
        Self {
            tasks: 32,
            samples: 2,
            every: None,
        }
    }
}

/// What is saved so that a stopped run can be resumed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Checkpoints {
    /// Steps from one checkpoint to the next. The last step always has one.
    pub every: usize,
    /// How many of the newest checkpoints to keep.
    pub keep: usize,
}

impl Default for Checkpoints {
    fn default() -> Self {
        Self { every: 20, keep: 1 }
    }
}

/// How the ranks of a run share it: processes that were started together, for example by `mpirun`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Parallel {
    /// The number of ranks that hold the same agents and share their work. `None` spreads the agents over as many
    /// ranks as possible first.
    pub replicas: Option<usize>,
    /// The format in which gradients travel between replicas.
    pub gradients: SumFormat,
    /// A rank that has waited for others for this many seconds logs for which ones.
    pub warn_after_secs: u64,
}

impl Default for Parallel {
    fn default() -> Self {
        Self {
            replicas: None,
            gradients: SumFormat::F32,
            warn_after_secs: 300,
        }
    }
}

impl Parallel {
    pub(crate) fn warn_after(&self) -> Duration {
        Duration::from_secs(self.warn_after_secs)
    }
}

impl TeamModels {
    /// The names of the models, as the recipe lists them.
    pub fn names(&self) -> Vec<&str> {
        match self {
            Self::Copies(model) | Self::Shared(model) => vec![model],
            Self::Each(models) => models.iter().map(String::as_str).collect(),
        }
    }

    /// The model of each agent in a team for `roles` roles. [`Recipe::validate_for`] ensures that a list has
    /// one model per role.
    pub fn models(&self, roles: usize) -> Vec<&str> {
        match self {
            Self::Copies(model) => vec![model; roles],
            Self::Each(models) => models.iter().map(String::as_str).collect(),
            Self::Shared(model) => vec![model],
        }
    }
}

impl Recipe {
    /// Reads a recipe, applies overrides of the form `path=value`, and checks it.
    ///
    /// `which` is the name of a registered recipe, or a file; `None` means the first registered recipe.
    ///
    /// # Errors
    /// Names the file and the line, or the override, and what is allowed there.
    pub fn load(registry: &Registry, which: Option<&str>, overrides: &[String]) -> Result<Self> {
        let (label, text) = find(registry, which)?;
        Self::parse(registry, &label, &text, overrides)
    }

    /// Parses and checks a recipe's text with its overrides. Errors name `label`, the origin of the text.
    pub(crate) fn parse(
        registry: &Registry,
        label: &str,
        text: &str,
        overrides: &[String],
    ) -> Result<Self> {
        let mut resolved =
            Self::read(registry, text).with_context(|| format!("reading {label}"))?;
        for change in overrides {
            let outcome = resolved.recipe.with(registry, change);
            resolved = outcome.with_context(|| format!("--set {change}"))?;
        }
        let ResolvedRecipe { recipe, algorithm } = resolved;
        let outcome = recipe.validate_with(algorithm.as_ref());
        outcome.with_context(|| match overrides {
            [] => format!("checking {label}"),
            _ => format!("checking {label} with --set {}", overrides.join(" --set ")),
        })?;
        Ok(recipe)
    }

    /// Parses a recipe and fills in every key of its settings, without checking its numbers.
    ///
    /// # Errors
    /// Names the line, and for an unknown key or name the nearest known one.
    pub fn from_ron(registry: &Registry, text: &str) -> Result<Self> {
        Ok(Self::read(registry, text)?.recipe)
    }

    fn read(registry: &Registry, text: &str) -> Result<ResolvedRecipe> {
        let recipe: Self = ron_options()
            .from_str(text)
            .map_err(|error| explain::in_file(&error, text))?;
        recipe
            .resolve(registry)
            .map_err(|failure| explain::choice_in_file(failure.error, text, failure.key))
    }

    /// The recipe as RON with every key spelled out; [`Recipe::from_ron`] returns an equal recipe.
    pub fn to_ron(&self) -> String {
        let layout = ron::ser::PrettyConfig::new().struct_names(false);
        let text = ron::ser::to_string_pretty(self, layout);
        text.expect("a recipe holds numbers, texts, lists and maps of texts: RON has them all")
    }

    /// The recipe with one change of the form `path=value`.
    fn with(&self, registry: &Registry, change: &str) -> Result<ResolvedRecipe> {
        let overrides::Override { path, value, text } = overrides::apply(&self.to_ron(), change)?;
        let recipe: Self = ron_options().from_str(&text).map_err(|error| {
            let reason = explain::reason(&error, &text);
            anyhow!("`{path}` cannot be {value}: {reason}")
        })?;
        recipe
            .resolve(registry)
            .map_err(|failure| anyhow!("`{path}` cannot be {value}: {:#}", failure.error))
    }

    /// Lets the registered types read the settings in the recipe, and write them with every key spelled out.
    fn resolve(self, registry: &Registry) -> Result<ResolvedRecipe, ResolveError> {
        let at = |key| move |error| ResolveError { key, error };
        let source = |key, choice: Option<Choice>| {
            let outcome = choice.map(|choice| registry.read_source(&choice));
            let source = outcome.transpose().map_err(at(key))?;
            Ok(source.map(|source| source.choice))
        };
        let environment = registry
            .resolve_environment(&self.environment)
            .map_err(at("environment"))?;
        let train = source("train", self.train)?;
        let held_out = source("held_out", self.held_out)?;
        let algorithm = registry
            .read_algorithm(&self.algorithm)
            .map_err(at("algorithm"))?;
        Ok(ResolvedRecipe {
            recipe: Self {
                environment,
                train,
                held_out,
                algorithm: algorithm.choice,
                ..self
            },
            algorithm: algorithm.settings,
        })
    }

    /// The recipe with the precision that `Auto` chooses on this machine.
    ///
    /// # Errors
    /// If a device cannot be opened.
    pub(crate) fn with_resolved_precision(&self) -> Result<Self> {
        Ok(Self {
            precision: self.precision.resolved(&self.devices)?,
            ..self.clone()
        })
    }

    /// The recipe with the device that `devices: Local(…)` means for this rank of a machine.
    pub(crate) fn on_node_rank(&self, rank: usize) -> Self {
        Self {
            devices: self.devices.on_node_rank(rank),
            ..self.clone()
        }
    }

    /// The part of the recipe that an algorithm and a rollout need.
    pub fn training_config(&self) -> TrainingConfig {
        TrainingConfig {
            seed: self.seed,
            steps: self.steps,
            sampling: self.sampling.clone(),
            max_new_tokens: self.max_new_tokens,
            long_prompts: self.long_prompts,
            updates: self.updates.clone(),
        }
    }
}

/// A recipe with every key spelled out, and the settings of its algorithm.
struct ResolvedRecipe {
    recipe: Recipe,
    algorithm: Box<dyn AlgorithmSettings>,
}

/// The value of `key` in a recipe is not registered, or its settings cannot be read.
struct ResolveError {
    key: &'static str,
    error: anyhow::Error,
}

/// The label and the text of a registered recipe, or of a file.
fn find(registry: &Registry, which: Option<&str>) -> Result<(String, String)> {
    let mut recipes = registry.recipes();
    let registered = match which {
        None => Some(recipes.next().context(
            "this program has no recipe of its own, so there is no default: give a RON file",
        )?),
        Some(which) => recipes.find(|recipe| recipe.name == which),
    };
    if let Some(recipe) = registered {
        return Ok((format!("recipe `{}`", recipe.name), recipe.text.to_owned()));
    }
    let which = which.unwrap_or_default();
    let path = PathBuf::from(which);
    if !path.exists() {
        let names: Vec<&str> = registry.recipes().map(|recipe| recipe.name).collect();
        // The names of single-agent recipes used to end in `-solo`.
        let renamed = which
            .strip_suffix("-solo")
            .map(|team| format!("{team}-single-agent"));
        let renamed = names
            .iter()
            .copied()
            .find(|name| renamed.as_deref() == Some(name));
        let nearest = renamed.or_else(|| explain::nearest(which, &names));
        bail!(
            "`{which}` is neither a recipe that ships with this program ({}) nor a file that exists{}",
            names.join(", "),
            nearest.map_or_else(String::new, |name| format!("; did you mean `{name}`?"))
        );
    }
    let text = std::fs::read_to_string(&path).with_context(|| format!("reading {which}"))?;
    Ok((which.to_owned(), text))
}
