//! The vocabulary of cooperative episodes, and the one trait that a new environment implements.
//!
//! Several agents answer one task together. At every turn each agent reads an [`Observation`] and
//! gives a [`Response`]. Their [`JointAction`] earns a [`Reward`]: all roles share it, or each role gets
//! a separate one. The environment then ends the episode or gives each agent its next observation.
//!
//! This crate is the only dependency that an [`Environment`] needs. The crate itself must not know models,
//! tokenizers, files or the network. Start reading at [`Environment`]. [`FnEnvironment`] is for games that need no
//! more than a function, and [`EnvironmentSettings`] connects an environment to recipes.
//!
//! A game of two turns, with rewards per role and its own tasks:
//!
//! ```
//! use std::num::NonZeroUsize;
//!
//! use polyphony_episode::{
//!     Environment, EnvironmentError, EnvironmentSettings, JointAction, Next, Observation, Outcome,
//!     Response, Reward, Role, Split, Task, Turn,
//! };
//! use serde::{Deserialize, Serialize};
//!
//! /// Two agents write one word each; both words should have the same length. After the first turn, each
//! /// agent reads the length of the other's word.
//! #[derive(Clone, Serialize, Deserialize)]
//! #[serde(default, deny_unknown_fields)]
//! struct SameLength {
//!     longest: usize,
//!     #[serde(skip, default = "roles")]
//!     roles: Vec<Role>,
//!     #[serde(skip, default = "parts")]
//!     parts: Vec<String>,
//! }
//!
//! fn roles() -> Vec<Role> {
//!     ["left", "right"].map(Role::new).into()
//! }
//!
//! fn parts() -> Vec<String> {
//!     ["equal", "short"].map(String::from).into()
//! }
//!
//! impl Default for SameLength {
//!     fn default() -> Self {
//!         Self { longest: 8, roles: roles(), parts: parts() }
//!     }
//! }
//!
//! impl Environment for SameLength {
//!     fn roles(&self) -> &[Role] {
//!         &self.roles
//!     }
//!
//!     fn reward_parts(&self) -> &[String] {
//!         &self.parts
//!     }
//!
//!     fn horizon(&self) -> NonZeroUsize {
//!         const { NonZeroUsize::new(2).unwrap() }
//!     }
//!
//!     fn tasks(&self, split: Split) -> Option<Vec<Task>> {
//!         let subject = match split {
//!             Split::Train => "a colour",
//!             Split::HeldOut => "an animal",
//!         };
//!         Some(vec![Task::new(subject, [("question", format!("Name {subject}."))])])
//!     }
//!
//!     fn start(&self, task: &Task) -> Result<Vec<Observation>, EnvironmentError> {
//!         Ok(vec![Observation::new(task.field("question")?); 2])
//!     }
//!
//!     fn step(
//!         &self,
//!         _task: &Task,
//!         past: &[Turn],
//!         action: &JointAction,
//!     ) -> Result<Outcome, EnvironmentError> {
//!         let lengths = action.texts::<2>().map(str::len);
//!         let equal = f64::from(u8::from(lengths[0] == lengths[1]));
//!         let short = |length| f64::from(u8::from(length <= self.longest));
//!         let reward =
//!             Reward::per_role(lengths.map(|length| [("equal", equal), ("short", short(length))]));
//!         if past.len() + 1 == self.horizon().get() {
//!             return Ok(Outcome::end(reward));
//!         }
//!         let hint = |agent: usize| format!("The other word has {} letters.", lengths[1 - agent]);
//!         let observations = [hint(0), hint(1)].map(Observation::new);
//!         Ok(Outcome::continue_with(reward, observations.into()))
//!     }
//! }
//!
//! // In a recipe: `SameLength(longest: 5)`. Keys that are left out have their defaults.
//! let settings: SameLength = ron::from_str("(longest: 5)")?;
//! let game = settings.build()?;
//! let task = &game.tasks(Split::Train).unwrap()[0];
//! let observations = game.start(task)?;
//! assert_eq!(&*observations[0].text, "Name a colour.");
//!
//! let action = |words: [&str; 2]| JointAction::new(words.map(Response::from_text).into());
//! let first = action(["red", "yellow"]);
//! let outcome = game.step(task, &[], &first)?;
//! assert_eq!((outcome.reward.total_of(0), outcome.reward.total_of(1)), (1.0, 0.0));
//! let Next::Continue(hints) = outcome.next else { panic!("there are two turns") };
//! assert_eq!(&*hints[0].text, "The other word has 6 letters.");
//!
//! let past = [Turn { observations, action: first }];
//! let outcome = game.step(task, &past, &action(["white", "green"]))?;
//! // With separate rewards, the total is the mean over the roles.
//! assert_eq!((outcome.reward.total(), outcome.next), (2.0, Next::End));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod environment;
mod error;
mod fn_environment;
mod metric;
mod names;
mod reward;
mod settings;
mod task;
mod turn;

pub use environment::{Environment, Next, Outcome};
pub use error::EnvironmentError;
pub use fn_environment::FnEnvironment;
pub use metric::{Counter, Metric, MetricKey, MetricValue};
pub use names::{NameError, SHARED_AGENT, can_name_directory, check_names};
pub use reward::Reward;
pub use settings::{EnvironmentSettings, TaskSource};
pub use task::{Split, Task, TaskError};
pub use turn::{FinishReason, JointAction, Observation, Response, Role, Turn};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
