//! Tests whose bodies go through every device of the build. Tests of other things are elsewhere, so this
//! program is built without the runner.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod conformance;
mod learning;
