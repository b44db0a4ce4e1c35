//! The evaluation that `polyphony eval` and `polyphony baseline` have in common.

use std::{io::Write, path::Path};

use anyhow::{Context as _, Result};
use polyphony_report::{
    Estimate, EvaluationRecord, check_absent, make_new, make_numbered, save_evaluation, table,
};
use polyphony_runner::{EvaluationRequest, EvaluationResult, Registry, Stop};

use crate::{json_lines, launch::Launch, terminal};

/// An evaluation, and where its result is saved.
#[derive(Debug)]
pub(crate) struct EvaluationJob<'a> {
    pub(crate) request: EvaluationRequest<'a>,
    /// The run that trained the team, if there is one.
    pub(crate) trained_by: Option<&'a Path>,
    pub(crate) destination: Destination<'a>,
}

/// Where a result is saved.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Destination<'a> {
    /// Nowhere.
    None,
    /// In a new directory at this path.
    Directory(&'a Path),
    /// In a new directory below `runs`, named after the environment with this suffix.
    Numbered(&'a str),
}

/// Evaluates a team. Prints the metrics as one JSON object on `output`, and a table on standard error.
///
/// # Errors
/// If models or data cannot be obtained, or the evaluation fails. Nothing is saved then.
pub(crate) fn evaluate(
    registry: &Registry,
    launch: &Launch,
    job: &EvaluationJob<'_>,
    output: &mut dyn Write,
) -> Result<()> {
    if let Destination::Directory(path) = job.destination {
        check_absent(path)?;
    }
    // A signal simply ends the program here.
    let stop = Stop::new();
    let (world, mut display) = (launch.world(), launch.display());
    let result =
        polyphony_runner::evaluate(registry, &job.request, world, &stop, display.as_mut())?
            .context("the evaluation was interrupted")?;
    if !launch.is_first() {
        return Ok(());
    }
    let evaluation = &result.evaluation;
    terminal::write(&text(evaluation));
    // Saved even if nobody reads the output.
    let save_outcome = save(job.destination, &result, job.trained_by);
    json_lines::write(output, &evaluation.without_episodes())?;
    save_outcome
}

fn save(
    destination: Destination<'_>,
    result: &EvaluationResult,
    trained_by: Option<&Path>,
) -> Result<()> {
    let EvaluationResult {
        recipe,
        info,
        evaluation,
    } = result;
    let path = match destination {
        Destination::None => return Ok(()),
        Destination::Directory(path) => make_new(path)?,
        Destination::Numbered(suffix) => {
            let name = format!("{}{suffix}", info.environment.label);
            make_numbered(Path::new("runs"), &name)?
        }
    };
    save_evaluation(&path, &recipe.to_ron(), info, trained_by, evaluation)?;
    log::info!("the evaluation is saved in {}", path.display());
    Ok(())
}

/// The metrics as a table, and the cost of the evaluation.
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
        .map(|(role, summary)| {
            vec![
                role.clone(),
                format!("{:.1}", summary.completion_length),
                format!("{:.0} %", 100.0 * summary.truncated_fraction),
            ]
        })
        .collect();
    let header = ["role", "tokens per response", "truncated"].map(str::to_owned);
    text += &table(&header, &rows);
    let timing = &evaluation.timing;
    text += &format!(
        "\n{} task(s) with {} episode(s) each; {} completion tokens and {} prompt tokens in {:.0} s: \
         {:.0} tokens/s, {:.1} s per task\n",
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
            "{} episodes skipped and {} cut short, because a prompt did not fit\n",
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
        let episode = EpisodeRecord {
            task: "t".to_owned(),
            episode_return: 1.0,
            ..EpisodeRecord::default()
        };
        let evaluation = EvaluationRecord {
            episodes: vec![episode],
            ..EvaluationRecord::default()
        };
        let mut evaluation = evaluation.summarized([""; 0]);
        assert!(!text(&evaluation).contains("skipped"));
        (evaluation.skipped_episodes, evaluation.cut_episodes) = (3, 1);
        let expected = "3 episodes skipped and 1 cut short, because a prompt did not fit\n";
        assert!(
            text(&evaluation).ends_with(expected),
            "{}",
            text(&evaluation)
        );
    }
}
