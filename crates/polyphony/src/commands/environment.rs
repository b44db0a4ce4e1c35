//! `polyphony environment`: what this program can play, and whether a program of one's own is played well.

use std::{io::Write, path::PathBuf, process};

use anyhow::{Context as _, Result, ensure};
use clap::Subcommand;
use polyphony_env::{Process, check_process};
use polyphony_runner::Registry;
use serde_json::json;

use crate::json_lines;

/// The arguments of `polyphony environment`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Plays a few episodes with made-up answers against a program that speaks the protocol of
    /// `Process`, and says what is wrong.
    Check(Check),
}

#[derive(Debug, clap::Args)]
struct Check {
    /// The program and its arguments, as a JSON list: `[\"python3\", \"game.py\"]`.
    #[arg(long, value_name = "LIST")]
    command: String,
    /// Tasks to play: a file of JSON lines (also gzipped) or Parquet; the program's own if left out.
    #[arg(long, value_name = "FILE")]
    tasks: Option<PathBuf>,
}
