//! Evaluating a team once, for `polyphony eval` and `polyphony baseline`.

use std::{
    io::{self, Write},
    path::Path,
};

use anyhow::{Context as _, Result};
use polyphony_report::{Estimate, Evaluation, KeptEvaluation, check_new, table};
use polyphony_runner::{Evaluating, Registry, Stop, evaluation_info};

use crate::{display::Display, json_lines};

/// What is evaluated, and where the result is kept.
#[derive(Debug)]
pub(crate) struct Request<'a> {
    pub(crate) evaluating: Evaluating<'a>,
    /// The run that trained the team, where there was one.
    pub(crate) trained_by: Option<&'a Path>,
    pub(crate) kept: Kept<'a>,
}

/// Where a result is kept.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kept<'a> {
    /// Nowhere.
    No,
    /// In a new directory at this path.
    In(&'a Path),
    /// In a new directory below `runs` whose name begins like this.
    Named(&'a str),
}

/// Evaluates a team: the figures as one JSON object on `output`, a table on standard error.
///
/// # Errors
/// If models or data cannot be had, or the evaluation fails; nothing is kept then.
pub(crate) fn evaluate(
    registry: &Registry,
    request: &Request<'_>,
    output: &mut dyn Write,
) -> Result<()> {
    if let Kept::In(path) = request.kept {
        check_new(path)?;
    }
    // Nobody listens for Ctrl-C here: it ends the program.
    let stop = Stop::new();
    let display = &mut Display::default();
    let evaluation = polyphony_runner::evaluate(registry, &request.evaluating, &stop, display)?
        .context("the evaluation was interrupted")?;
    // Nobody is left to read it where standard error is closed.
    let _ = io::stderr().lock().write_all(text(&evaluation).as_bytes());
    // Kept even if whoever reads the figures has gone.
    let kept = keep(registry, request, &evaluation);
    json_lines::write(output, &evaluation.without_episodes())?;
    kept
}
