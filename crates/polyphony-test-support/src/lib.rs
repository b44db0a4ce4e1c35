//! What the tests of all crates share: fixtures, tiny models, small games, snapshots.
//!
//! Everything here panics where something is wrong, because a test then fails. Only tests, examples
//! and benchmarks use it. It knows episodes, models and agents, and nothing of environments that ship,
//! of recipes or of the command line. The README has a table of what there is.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

pub mod games;

mod agents;
mod fixtures;
mod model_dirs;
mod models;
mod snapshots;

pub use agents::{plain_codec, team};
pub use fixtures::fixture;
pub use model_dirs::{chat_model, edit_json, other_chat_model, plain_model};
pub use models::{load, load_on, values, weight_bits};
pub use snapshots::assert_snapshot;
