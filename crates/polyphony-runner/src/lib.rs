//! The runner: recipes, models by name, training runs, evaluation, and the `polyphony` command.
//!
//! This crate wires the others together and knows nothing of how they work inside. Start reading
//! at [`recipe::Recipe`], which says everything that a run does, then [`train::train`], which does
//! it; [`cli`] has the commands.

pub mod bench;
mod checkpoint;
pub mod cli;
mod commands;
mod comparison;
pub mod device;
pub mod environment;
pub mod evaluation;
mod events;
mod interrupt;
mod json_lines;
mod judging;
mod memory;
pub mod metrics;
mod progress;
pub mod recipe;
mod report;
mod run_directory;
mod run_files;
mod schedule;
mod series;
pub mod sources;
pub mod statistics;
mod summary;
mod table;
pub mod team;
#[cfg(test)]
mod tiny_model;
pub mod train;
mod transfer;
mod watch;
