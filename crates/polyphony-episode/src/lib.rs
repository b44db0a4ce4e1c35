//! The vocabulary of cooperative episodes, and the one trait a new environment implements.
//!
//! Several agents answer one task together. At every turn each agent receives an [`Observation`],
//! says a [`Response`], and the [`JointAction`] of all of them earns one shared [`Reward`]. The
//! environment then ends the episode or gives each agent its next observation.
//!
//! This crate knows nothing of models, tokenizers, files or the network: whoever writes an
//! [`Environment`] depends on it alone. Start reading at [`Environment`].
//!
//! ```
//! use polyphony_episode::{
//!     Environment, EnvironmentError, JointAction, Observation, Outcome, Response, Reward, Role,
//!     Task, Turn,
//! };
//!
//! /// Two agents should give answers of equal length.
//! struct SameLength {
//!     roles: [Role; 2],
//! }
//!
//! impl Environment for SameLength {
//!     fn roles(&self) -> &[Role] {
//!         &self.roles
//!     }
//!
//!     fn reward_parts(&self) -> &[&'static str] {
//!         &["equal"]
//!     }
//!
//!     fn start(&self, task: &Task) -> Result<Vec<Observation>, EnvironmentError> {
//!         let question = task.field("question")?;
//!         Ok(vec![Observation::new(question); 2])
//!     }
//!
//!     fn step(
//!         &self,
//!         _task: &Task,
//!         _past: &[Turn],
//!         action: &JointAction,
//!     ) -> Result<Outcome, EnvironmentError> {
//!         let [first, second] = action.texts();
//!         let equal = f64::from(u8::from(first.len() == second.len()));
//!         Ok(Outcome::end(Reward::new([("equal", equal)])))
//!     }
//! }
//!
//! let game = SameLength { roles: [Role::new("left"), Role::new("right")] };
//! let task = Task::new("1", [("question", "Name a colour.")]);
//! let action = JointAction::new(vec![Response::from_text("red"), Response::from_text("tan")]);
//! assert_eq!(game.start(&task)?.len(), 2);
//! assert_eq!(game.step(&task, &[], &action)?.reward.total(), 1.0);
//! # Ok::<(), EnvironmentError>(())
//! ```

mod environment;
mod metric;
mod reward;
mod task;
mod turn;

pub use environment::{Environment, EnvironmentError, Next, Outcome};
pub use metric::{Counter, Metric, MetricKey, MetricValue};
pub use reward::Reward;
pub use task::{Task, TaskError};
pub use turn::{FinishReason, JointAction, Observation, Response, Role, Turn};
