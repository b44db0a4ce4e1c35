//! Fixtures, tiny models, small games and snapshots that the tests of all crates share.
//!
//! Every function here panics if something is wrong, so that the test fails. Only tests, examples and
//! benchmarks use this crate. It knows episodes, models and agents. It must not know recipes, the command
//! line, or the environments that ship. Start reading at the README, which has a table of all functions.
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
