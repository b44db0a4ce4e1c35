//! The runner: recipes, the registry of what a recipe can name, training runs, checkpoints and evaluation.
//!
//! Use it to train from your own program without the `polyphony` command line. It connects the other crates,
//! but does not know how they work inside. It knows no concrete environment or algorithm: each program
//! registers its own. It prints nothing, installs no handlers, and never ends the process: the caller passes a
//! [`Stop`] token and an [`Observer`], and gets values and errors back. One process can make several runs.
//!
//! ```
//! use polyphony_episode::{
//!     Environment, EnvironmentError, EnvironmentSettings, FnEnvironment, Reward,
//! };
//! use polyphony_marl::Magrpo;
//! use polyphony_runner::{Recipe, Registry};
//! use serde::{Deserialize, Serialize};
//!
//! /// Two agents should answer about equally long.
//! #[derive(Default, Serialize, Deserialize)]
//! #[serde(default)]
//! struct SameLength {
//!     tolerance: usize,
//! }
//!
//! impl EnvironmentSettings for SameLength {
//!     fn build(&self) -> Result<Box<dyn Environment>, EnvironmentError> {
//!         let tolerance = self.tolerance;
//!         Ok(Box::new(FnEnvironment::new(["left", "right"], ["equal"], move |_task, action| {
//!             let [left, right] = action.texts();
//!             let equal = left.len().abs_diff(right.len()) <= tolerance;
//!             Reward::new([("equal", f64::from(u8::from(equal)))])
//!         })))
//!     }
//! }
//!
//! let registry = Registry::new()
//!     .environment::<SameLength>("SameLength")
//!     .algorithm::<Magrpo>("Magrpo")
//!     .recipe(
//!         "same-length",
//!         r#"(
//!             environment: SameLength(tolerance: 2),
//!             team: Copies("smollm2-135m"),
//!             max_new_tokens: 32,
//!             steps: 100,
//!         )"#,
//!     );
//! let recipe = Recipe::load(&registry, Some("same-length"), &["steps=10".to_owned()])?;
//! assert_eq!(recipe.steps, 10);
//! // To train, register a task source, name it in the recipe's keys `train` and `held_out`, and call
//! // `train(&registry, &recipe, None, &Stop::new(), &mut ())?`. Each task needs a field `prompt` here.
//! # Ok::<(), anyhow::Error>(())
//! ```
//!
//! Start reading at [`Recipe`], which describes everything that a run does. A [`Choice`] in a recipe is a
//! registered name with its settings, such as `Magrpo(samples: 8)`. Continue with [`Registry`], and then with
//! [`train()`], which carries out a recipe.

mod batch;
mod changeable;
mod checkpoint;
mod choice;
mod device;
mod evaluate;
mod evaluated_agents;
mod explain;
#[cfg(test)]
mod fixture;
mod info;
mod memory;
mod models;
mod observer;
mod operational;
mod precision;
mod prepare;
mod rank_plan;
mod ranks;
mod recipe;
mod records;
mod registry;
mod resume;
mod saved_recipe;
mod settings;
mod stop;
mod task_sampler;
mod team;
mod train;

pub use checkpoint::ResumeFrom;
pub use choice::{Choice, ChoiceError, RegisteredRecipe};
pub use device::{DeviceChoice, Devices, FoundDevice, LocalGpu, list_devices};
pub use evaluate::{EvaluationRequest, EvaluationResult, evaluate};
pub use evaluated_agents::EvaluatedAgents;
pub use memory::peak_mib as peak_memory_mib;
pub use models::{resolve_model, with_model_store};
pub use observer::{BestAction, Event, Observer};
pub use precision::PrecisionChoice;
pub use rank_plan::{PlannedAgent, RankPlan, rank_plan};
pub use recipe::{Checkpoints, EvaluationConfig, FineTuning, Parallel, Recipe, TeamModels};
pub use registry::{Registry, Resolved};
pub use resume::resume;
pub use saved_recipe::{run_recipe, training_steps_of_models};
pub use stop::Stop;
pub use train::{Trained, Unfinished, train};
