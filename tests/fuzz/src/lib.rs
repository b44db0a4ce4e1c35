//! Fuzz targets: functions of bytes, one for each kind of input that Polyphony does not write itself.
//!
//! Model directories, data sets, recipes, records of runs and answers of other programs may come from
//! untrusted sources. Whatever they contain, reading must end with a value or an error: soon, in bounded
//! memory, and without a panic. A [`Target`] takes bytes as such input, and reads them with the code that the
//! commands use.
//!
//! This library does not depend on the engine. `cargo test` replays the corpus; `cargo xtask fuzz` links the
//! targets with libFuzzer and searches for new inputs. Start reading at [`TARGETS`]; the README describes how
//! to add a target.
#![allow(clippy::unwrap_used, reason = "a target fails by panicking")]

mod check;
mod target;
mod targets;

pub use target::Target;
pub use targets::{TARGETS, find};
