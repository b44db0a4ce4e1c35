//! The runner: recipes, the registry of what they name, training runs, checkpoints and evaluation.
//!
//! It wires the other crates together. It knows no concrete environment and no concrete algorithm:
//! they are registered. Nor does it know how any other crate works inside. It prints nothing, installs
//! no handlers, and never ends the process: the caller passes a [`Stop`] token and an [`Observer`], and
//! gets values and errors back. One process can make several runs.
//!
//! Start reading at [`Recipe`], which describes everything that a run does, then [`Registry`], and then
//! [`train()`], which carries it out.

mod batch;
mod changeable;
mod checkpoint;
mod choice;
mod device;
mod evaluate;
mod explain;
#[cfg(test)]
mod fixture;
mod info;
mod memory;
mod models;
mod observer;
mod operational;
mod players;
mod prepare;
mod recipe;
mod registry;
mod resume;
mod saved_recipe;
mod task_sampler;
mod settings;
mod stop;
mod team;
mod train;

pub use checkpoint::From;
pub use choice::{Choice, ChoiceError, Shipped};
pub use device::{DeviceChoice, Devices};
pub use evaluate::{EvaluationResult, EvaluationRequest, evaluate};
pub use memory::peak_mib as peak_memory_mib;
pub use models::{resolve_model, with_store};
pub use observer::{Best, Event, Observer};
pub use players::Players;
pub use recipe::{Checkpoints, EvaluationConfig, FineTuning, Recipe, TeamModels};
pub use registry::{Registry, Resolved};
pub use resume::resume;
pub use saved_recipe::{run_recipe, steps_of_models};
pub use stop::Stop;
pub use train::{Trained, Unfinished, train};
