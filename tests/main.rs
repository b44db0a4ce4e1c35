//! Integration tests across the crates, one binary.
//!
//! `tiny` has the models that the tests run on and `command` starts the program; every other module
//! is one theme. Nothing here needs the network.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod answers;
mod bad_files;
mod bad_models;
mod chat_models;
mod command;
mod conformance;
mod devices;
mod evaluation;
mod games;
mod interruption;
mod learning;
mod reports;
mod resume;
mod shipped_recipes;
mod teams;
mod tiny;
mod training_run;
