//! `polyphony compare`: compares runs and baselines.

use std::{io::Write, path::PathBuf};

use anyhow::Result;
use polyphony_report::{Run, compare, comparison_text};

use crate::{json_lines, terminal};

/// The arguments of `polyphony compare`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Compare these directories of training runs, baselines and saved evaluations. Runs that differ only in
    /// their seeds make one row.
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
}

/// Prints one JSON object per row, and the rows as a table on standard error.
pub(crate) fn run(arguments: &Arguments, output: &mut dyn Write) -> Result<()> {
    let runs = arguments.runs.iter().map(|path| Run::read(path));
    let runs: Vec<Run> = runs.collect::<Result<_, _>>()?;
    let rows = compare(&runs)?;
    terminal::write(&comparison_text(&rows));
    rows.iter()
        .try_for_each(|row| json_lines::write(output, row))
}
