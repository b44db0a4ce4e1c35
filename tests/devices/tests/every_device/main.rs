//! Tests that run on every device of the build. Other tests are elsewhere, so that this program builds
//! without the runner.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod conformance;
mod learning;
