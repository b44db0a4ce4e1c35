//! Everything that Polyphony reads and did not write itself, as functions of bytes.
//!
//! Model directories, data sets, recipes, records of runs and answers of other programs come from
//! strangers. Whatever is in them, reading must end with a value or an error: soon, in bounded memory,
//! and without a panic. A [`Target`] puts bytes where such input would be and reads it on the path that
//! the commands take.
//!
//! The library knows nothing of the engine. `cargo test` replays the corpus; `cargo xtask fuzz` links
//! the targets with libFuzzer and looks for new inputs. Start reading at [`TARGETS`]; the README says
//! how to add one.
#![allow(clippy::unwrap_used, reason = "a target fails by panicking")]

mod check;
mod target;
mod targets;

pub use target::Target;
pub use targets::{TARGETS, find};
