//! Polyphony as one crate: all built-in environments and algorithms, the command line, and the way to add
//! your own environments and algorithms.
//!
//! [`Program`] knows environments, algorithms, data sets and recipes by name. A [`Choice`] in a recipe is such a
//! name with its settings, as in `Magrpo(samples: 8)`. Your own program is the standard one with your
//! additions, and has every command of `polyphony`:
//!
//! ```no_run
//! use std::process::ExitCode;
//!
//! use polyphony::{
//!     Program,
//!     episode::{Environment, EnvironmentError, EnvironmentSettings, FnEnvironment, Reward, Role},
//! };
//! use serde::{Deserialize, Serialize};
//!
//! /// Two agents should answer equally long.
//! #[derive(Serialize, Deserialize)]
//! #[serde(deny_unknown_fields, default)]
//! struct SameLength {
//!     weight: f64,
//! }
//!
//! impl Default for SameLength {
//!     fn default() -> Self {
//!         Self { weight: 1.0 }
//!     }
//! }
//!
//! impl EnvironmentSettings for SameLength {
//!     fn build(&self) -> Result<Box<dyn Environment>, EnvironmentError> {
//!         let weight = self.weight;
//!         let roles = ["left", "right"].map(Role::new);
//!         Ok(Box::new(FnEnvironment::new(roles, ["equal"], move |_task, action| {
//!             let [left, right] = action.texts();
//!             let equal = f64::from(u8::from(left.len() == right.len()));
//!             Ok(Reward::new([("equal", weight * equal)]))
//!         })))
//!     }
//! }
//!
//! fn main() -> ExitCode {
//!     Program::standard()
//!         .environment::<SameLength>("SameLength")
//!         .main()
//! }
//! ```
//!
//! To train without a command line, call [`Program::train`], [`Program::resume`] and [`Program::evaluate`],
//! which take a [`Stop`] and return values. The re-exported crates, such as `polyphony-marl` as `marl`, can be
//! used without this one.
//!
//! Only [`Program::main`] prints, listens for Ctrl-C, and installs a logger and a panic hook. With the cargo
//! feature `mimalloc`, on by default, this crate sets the allocator of the program.
//!
//! Start reading at [`Program`]; `standard.rs` registers everything that ships, and each command is one file
//! below `commands`.

mod bench;
mod cli;
mod commands;
mod display;
#[cfg(unix)]
mod interrupt;
#[cfg(not(unix))]
#[path = "no_interrupt.rs"]
mod interrupt;
mod json_lines;
mod launch;
mod program;
mod standard;
mod step_model;
mod summary;
mod terminal;
mod transfer;

pub use polyphony_env as env;
pub use polyphony_episode as episode;
pub use polyphony_hub as hub;
pub use polyphony_marl as marl;
pub use polyphony_model as model;
pub use polyphony_report as report;
pub use polyphony_runner as runner;

pub use polyphony_runner::{
    BestAction, Choice, Event, Observer, Recipe, Registry, ResumeFrom, Stop, Trained, Unfinished,
};
pub use program::Program;

#[cfg(test)]
mod recipe_tests;
