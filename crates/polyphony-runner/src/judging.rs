//! Judging a team once, for `polyphony eval` and `polyphony baseline`.

use std::{
    io::{self, Write},
    path::Path,
};

use anyhow::{Context as _, Result, ensure};
use polyphony_marl::Protocol;

use crate::{
    evaluation::{self, Evaluation},
    json_lines,
    progress::Display,
    recipe::Recipe,
    run_directory,
    statistics::Estimate,
    table::table,
    team::Models,
    train::{check_tasks, load_tasks},
};

/// What is judged, and where the result is kept.
#[derive(Debug)]
pub(crate) struct Judging<'a> {
    pub(crate) recipe: &'a Recipe,
    /// The recipe of the team's training, where there was one.
    pub(crate) training: Option<&'a Recipe>,
    pub(crate) protocol: Protocol,
    /// Training steps that the team has had, as far as it is known.
    pub(crate) step: Option<usize>,
    pub(crate) kept: Kept<'a>,
}

/// Where a result is kept.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kept<'a> {
    /// Nowhere.
    No,
    /// In a new directory at this path.
    In(&'a Path),
    /// In a new directory below `runs` whose name begins so.
    Named(&'a str),
}

/// Evaluates a team: the figures as one JSON object on `output`, a table on standard error.
///
/// # Errors
/// If models or data cannot be had, or the evaluation fails; nothing is kept then.
pub(crate) fn judge(judging: &Judging<'_>, output: &mut dyn Write) -> Result<()> {
    let recipe = judging.recipe;
    if let Kept::In(path) = judging.kept {
        run_directory::check_new(path)?;
    }
    let environment = recipe.environment.build()?.environment;
    let mut held_out = load_tasks(&recipe.held_out, "held_out", environment.as_ref())?;
    held_out.truncate(recipe.evaluation.tasks);
    let team = Models::open(recipe, environment.as_ref())?.load(recipe)?;
    check_tasks(recipe, environment.as_ref(), &team, &held_out, "held_out")?;
    let mut display = Display::start("held-out tasks", held_out.len());
    let evaluation = evaluation::evaluate(
        &team,
        environment.as_ref(),
        &held_out,
        recipe,
        judging.protocol,
        judging.step,
        &mut |done| display.advance_to(done),
    )?;
    display.finish();
    // Nobody listens for Ctrl-C here: it ends the program.
    let evaluation = evaluation.context("the evaluation was interrupted")?;
    ensure!(
        evaluation.tasks > 0,
        "not one of {} episodes fits into the context with what agents read of one another: lower \
         `max_new_tokens`, or take models with a longer context",
        evaluation.skipped_episodes
    );
    // Nobody is left to tell where standard error is closed.
    let _ = io::stderr().lock().write_all(text(&evaluation).as_bytes());
    // Kept even if whoever reads the figures has gone.
    let kept = keep(judging, &evaluation);
    json_lines::write(output, &evaluation.without_episodes())?;
    kept
}

fn keep(judging: &Judging<'_>, evaluation: &Evaluation) -> Result<()> {
    let path = match judging.kept {
        Kept::No => return Ok(()),
        Kept::In(path) => run_directory::make_new(path)?,
        Kept::Named(name) => run_directory::make_numbered(name)?,
    };
    run_directory::save_evaluation(&path, judging.recipe, judging.training, evaluation)?;
    log::info!("kept in {}", path.display());
    Ok(())
}

/// The figures as a table, and what they cost.
fn text(evaluation: &Evaluation) -> String {
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
            let share = format!("{:.0} %", 100.0 * said.truncated_share);
            vec![role.clone(), format!("{:.1}", said.response_tokens), share]
        })
        .collect();
    let header = ["role", "tokens a response", "cut off"].map(str::to_owned);
    text += &table(&header, &rows);
    let timing = &evaluation.timing;
    text += &format!(
        "\n{} task(s) with {} episode(s) each; {} tokens sampled and {} read in {:.0} s: {:.0} tokens/s, \
         {:.1} s a task\n",
        evaluation.tasks,
        evaluation.samples,
        evaluation.sampled_tokens,
        evaluation.read_tokens,
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
    use super::*;

    #[test]
    fn episodes_that_did_not_fit_are_told() {
        let mut judged = evaluation::fixture(&[(1.0, String::new()), (2.0, String::new())]);
        assert!(!text(&judged).contains("left out"));
        (judged.skipped_episodes, judged.cut_episodes) = (3, 1);
        let told = "3 episodes left out and 1 cut short, since a prompt did not fit\n";
        assert!(text(&judged).ends_with(told), "{}", text(&judged));
    }
}
