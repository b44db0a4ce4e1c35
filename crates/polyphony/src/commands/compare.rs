//! `polyphony compare`: several runs and baselines side by side.

use std::{
    io::{self, Write},
    path::PathBuf,
};

use anyhow::Result;
use indexmap::IndexSet;

use crate::{
    comparison::{Row, compare},
    json_lines,
    run_files::Run,
    table::table,
};

/// The arguments of `polyphony compare`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Directories of training runs, of baselines and of kept evaluations. Those that differ in their
    /// seeds alone make one row.
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
}

/// Prints a JSON object a row, and the rows as a table on standard error.
pub(crate) fn run(arguments: &Arguments, output: &mut dyn Write) -> Result<()> {
    let runs = arguments.runs.iter().map(|path| Run::read(path));
    let rows = compare(&runs.collect::<Result<Vec<_>>>()?)?;
    // Nobody is left to tell where standard error is closed.
    let _ = io::stderr().lock().write_all(text(&rows).as_bytes());
    rows.iter()
        .try_for_each(|row| json_lines::write(output, row))
}

/// A table for each environment.
fn text(rows: &[Row]) -> String {
    let environments: IndexSet<&str> = rows.iter().map(|row| row.environment.as_str()).collect();
    let mut text = String::new();
    for environment in environments {
        let own: Vec<&Row> = rows
            .iter()
            .filter(|row| row.environment == environment)
            .collect();
        let header = [
            environment,
            "steps",
            "seeds",
            "tasks",
            "return",
            "95 % interval",
        ]
        .map(str::to_owned);
        let parts = own[0].parts.keys().cloned();
        let rates: IndexSet<usize> = own
            .iter()
            .flat_map(|row| row.pass_at.keys().copied())
            .collect();
        let cost = ["tokens said", "tokens read", "seconds", "runs"].map(str::to_owned);
        let header: Vec<String> = header
            .into_iter()
            .chain(parts)
            .chain(rates.iter().map(|k| format!("pass@{k}")))
            .chain(cost)
            .collect();
        let lines: Vec<Vec<String>> = own.iter().map(|row| line(row, &rates)).collect();
        text += &format!("\n{}", table(&header, &lines));
        for row in own
            .iter()
            .filter(|row| row.skipped_episodes + row.cut_episodes > 0)
        {
            text += &format!(
                "{}: {} episodes left out and {} cut short, since a prompt did not fit\n",
                row.method, row.skipped_episodes, row.cut_episodes
            );
        }
    }
    text + "\nTokens and seconds are those of an episode; seconds depend on the machine.\n"
}

fn line(row: &Row, rates: &IndexSet<usize>) -> Vec<String> {
    let steps = row.step.map_or_else(String::new, |step| step.to_string());
    let begin = [
        row.method.clone(),
        steps,
        row.seeds.len().to_string(),
        format!("{} × {}", row.tasks, row.samples),
        format!("{:.2}", row.returns.mean),
        row.returns.interval_text(),
    ];
    let parts = row.parts.values().map(|part| format!("{:.2}", part.mean));
    let rate = |k| {
        row.pass_at
            .get(k)
            .map_or_else(String::new, |rate| format!("{:.2}", rate.mean))
    };
    let cost = [
        format!("{:.0}", row.sampled_tokens),
        format!("{:.0}", row.read_tokens),
        format!("{:.2}", row.secs),
        row.runs.join(", "),
    ];
    begin
        .into_iter()
        .chain(parts)
        .chain(rates.iter().map(rate))
        .chain(cost)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{evaluation, run_files};

    #[test]
    fn a_table_says_what_did_not_fit_and_leaves_out_what_is_not_known() {
        let run = |name: &str, changes: &[&str], solved: Option<bool>| {
            let mut judged = evaluation::fixture(&[(1.0, String::new())]);
            judged.cut_episodes = usize::from(solved.is_none());
            judged.episodes[0].solved = solved;
            if solved.is_some() {
                let rate = crate::statistics::Estimate::of_run(judged.pass_by_task(1));
                judged.pass_at.insert(1, rate);
            }
            Run {
                evaluations: vec![judged],
                ..run_files::fixture(name, "coop-smollm2", changes)
            }
        };
        let runs = [
            run("a", &[], Some(true)),
            run("b", &["sampling.temperature=0.5"], None),
        ];
        let text = text(&compare(&runs).unwrap());
        let cells = |name: &str| {
            let line = text.lines().find(|line| line.trim_end().ends_with(name));
            let cells = line.unwrap().split("  ");
            cells.filter(|cell| !cell.trim().is_empty()).count()
        };
        assert_eq!(cells(" a"), cells(" b") + 1, "{text}");
        let told =
            "parallel (temperature: 0.5): 0 episodes left out and 1 cut short, since a prompt";
        assert!(
            text.contains(told) && text.matches("left out").count() == 1,
            "{text}"
        );
    }
}
