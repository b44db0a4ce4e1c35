//! Integration tests across the crates, in one binary.
//!
//! `command` starts the program; every other module covers one topic. Models come from
//! `polyphony_test_support`. No test needs the network.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod answers;
mod bad_files;
mod bad_models;
mod command;
mod evaluation;
mod games;
mod hostile_programs;
mod hostile_text;
mod interruption;
mod library;
mod once;
mod processes;
#[cfg(feature = "mpi")]
mod ranks;
mod reports;
mod resume;
mod shipped_recipes;
mod snapshots;
mod teams;
mod training_run;
