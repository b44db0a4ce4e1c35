//! The evaluation of `polyphony eval` and `polyphony baseline`.

use std::{io::Write, path::Path};

use anyhow::{Context as _, Result};
use polyphony_report::{
    Estimate, EvaluationRecord, check_new, make_new, make_numbered, save_evaluation, table,
};
use polyphony_runner::{EvaluationResult, EvaluationRequest, Registry, Stop};

use crate::{display::Display, json_lines, terminal};

/// What is evaluated, and where the result is kept.
#[derive(Debug)]
pub(crate) struct Request<'a> {
    pub(crate) evaluating: EvaluationRequest<'a>,
    /// The run that trained the team, if there is one.
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
    /// In a new directory below `runs`, named after the environment with this suffix.
    Numbered(&'a str),
}

/// Evaluates a team: the figures as one JSON object on `output`, a table on standard error.
///
/// # Errors
/// If models or data cannot be obtained, or the evaluation fails; nothing is kept then.
pub(crate) fn evaluate(
    registry: &Registry,
    request: &Request<'_>,
    output: &mut dyn Write,
) -> Result<()> {
    if let Kept::In(path) = request.kept {
        check_new(path)?;
    }
    // A signal simply ends the program here.
    let stop = Stop::new();
    let display = &mut Display::default();
    let evaluated = polyphony_runner::evaluate(registry, &request.evaluating, &stop, display)?
        .context("the evaluation was interrupted")?;
    let evaluation = &evaluated.evaluation;
    terminal::write(&text(evaluation));
    // Kept even if nobody reads the figures.
    let kept = keep(request.kept, &evaluated, request.trained_by);
    json_lines::write(output, &evaluation.without_episodes())?;
    kept
}

fn keep(kept: Kept<'_>, evaluated: &EvaluationResult, trained_by: Option<&Path>) -> Result<()> {
    let EvaluationResult {
        recipe,
        info,
        evaluation,
    } = evaluated;
    let path = match kept {
        Kept::No => return Ok(()),
        Kept::In(path) => make_new(path)?,
        Kept::Numbered(suffix) => {
            let name = format!("{}{suffix}", info.environment.label);
            make_numbered(Path::new("runs"), &name)?
        }
    };
    save_evaluation(&path, &recipe.to_ron(), info, trained_by, evaluation)?;
    log::info!("kept in {}", path.display());
    Ok(())
}

/// The figures as a table, and what they cost.
fn text(evaluation: &EvaluationRecord) -> String {
    let row = |(name, estimate): (String, Estimate)| {
        let mean = format!("{:.3}", estimate.mean);
        vec![name, mean, estimate.interval_text()]
    };
    let rows: Vec<Vec<String>> = evaluation.estimates().into_iter().map(row).collect();
    let header = ["held-out tasks", "mean", "95 % interval"].map(str::to_owned);
    let mut text = format!("\n{}\n", table(&header, &rows));
    let rows: Vec<Vec<String>> = evaluation
        .roles
        .iter()
        .map(|(role, said)| {
            let share = format!("{:.0} %", 100.0 * said.truncated_fraction);
            vec![role.clone(), format!("{:.1}", said.completion_length), share]
        })
        .collect();
    let header = ["role", "tokens per response", "cut off"].map(str::to_owned);
    text += &table(&header, &rows);
    let timing = &evaluation.timing;
    text += &format!(
        "\n{} task(s) with {} episode(s) each; {} tokens sampled and {} read in {:.0} s: {:.0} tokens/s, \
         {:.1} s per task\n",
        evaluation.tasks,
        evaluation.samples,
        evaluation.completion_tokens,
        evaluation.prompt_tokens,
        timing.secs,
        timing.tokens_per_sec,
        timing.secs_per_task
    );
    if evaluation.skipped_episodes + evaluation.cut_episodes > 0 {
        text += &format!(
            "{} episodes left out and {} cut short, since a prompt did not fit\n",
            evaluation.skipped_episodes, evaluation.cut_episodes
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use polyphony_report::EpisodeRecord;

    use super::*;

    #[test]
    fn episodes_that_did_not_fit_are_reported() {
        let played = EpisodeRecord {
            task: "t".to_owned(),
            value: 1.0,
            ..EpisodeRecord::default()
        };
        let evaluation = EvaluationRecord {
            episodes: vec![played],
            ..EvaluationRecord::default()
        };
        let mut evaluation = evaluation.summarized([""; 0]);
        assert!(!text(&evaluation).contains("left out"));
        (evaluation.skipped_episodes, evaluation.cut_episodes) = (3, 1);
        let expected = "3 episodes left out and 1 cut short, since a prompt did not fit\n";
        assert!(
            text(&evaluation).ends_with(expected),
            "{}",
            text(&evaluation)
        );
    }
}
