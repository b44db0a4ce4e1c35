//! Tests that run on every device of the build. Tests that need the runner are elsewhere, so that this
//! program builds without it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod conformance;
mod learning;
