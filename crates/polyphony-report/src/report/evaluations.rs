//! Charts of evaluations: the returns of each method, and other results on held-out tasks.

use std::collections::HashMap;

use indexmap::IndexSet;
use serde_json::json;

use super::{
    groups::Group,
    plot::{Chart, Trace, bars, colour, dots, errors, means, over_steps, plain, with},
};
use crate::{
    comparison::Row,
    evaluation::{EvaluationRecord, value_of},
    run::Run,
    statistics::{ByTask, Estimate},
};

/// Points for one value of the evaluations: its estimate over tasks and seeds at each step at which all runs
/// were evaluated. `None` if no step has the value.
pub(super) fn held_out(
    group: &Group<'_>,
    index: usize,
    values_of: &dyn Fn(&EvaluationRecord) -> ByTask<'_>,
) -> Option<Trace> {
    let steps = group.runs[0]
        .evaluations
        .iter()
        .filter_map(|evaluation| evaluation.step);
    let by_step: Vec<HashMap<usize, &EvaluationRecord>> = group.runs.iter().map(by_step).collect();
    let at = |step: usize| {
        let runs: Option<Vec<ByTask<'_>>> = by_step
            .iter()
            .map(|evaluations| Some(values_of(evaluations.get(&step).copied()?)))
            .collect();
        let is_complete = |runs: &Vec<ByTask<'_>>| runs.iter().all(|tasks| !tasks.is_empty());
        Some((step, Estimate::of_runs(&runs.filter(is_complete)?)))
    };
    let (steps, estimates): (Vec<usize>, Vec<Estimate>) = steps.filter_map(at).unzip();
    if estimates.is_empty() {
        return None;
    }
    let marker = json!({"color": colour(index), "size": 10, "symbol": "diamond"});
    let name = format!("{}, held out", group.label);
    let points = dots(json!(steps), json!(means(&estimates)), &name, marker);
    Some(with(points, "error_y", errors(&estimates, &colour(index))))
}

/// The evaluations of a run by step; if a step has several, the first.
fn by_step<'a>(run: &&'a Run) -> HashMap<usize, &'a EvaluationRecord> {
    let mut evaluations = HashMap::new();
    for evaluation in &run.evaluations {
        if let Some(step) = evaluation.step {
            evaluations.entry(step).or_insert(evaluation);
        }
    }
    evaluations
}

/// The parts of the return and pass@k on held-out tasks, over the steps.
pub(super) fn parts_and_pass_rates(groups: &[Group<'_>]) -> Vec<Chart> {
    let evaluations = || {
        groups
            .iter()
            .flat_map(|group| &group.runs)
            .flat_map(|run| &run.evaluations)
    };
    let parts: IndexSet<&String> = evaluations()
        .flat_map(|evaluation| evaluation.parts.keys())
        .collect();
    let rates: IndexSet<usize> = evaluations()
        .flat_map(|evaluation| evaluation.pass_at.keys().copied())
        .collect();
    let chart =
        |title: String, caption, unit, values_of: &dyn Fn(&EvaluationRecord) -> ByTask<'_>| {
            let lines = groups.iter().enumerate();
            let traces = lines
                .filter_map(|(index, group)| held_out(group, index, values_of))
                .collect();
            Chart::new(title, caption, traces, over_steps(unit))
        };
    let part = |part: &String| {
        let caption = "Mean of this part of the return with its 95 % interval.".to_owned();
        chart(
            format!("held_out/reward/{part}"),
            caption,
            "reward",
            // Runs of other environments have different parts.
            &|evaluation| match evaluation.parts.contains_key(part) {
                true => evaluation.mean_by_task(|episode| value_of(&episode.parts, part)),
                false => ByTask::new(),
            },
        )
    };
    let rate = |k: &usize| {
        let caption = format!(
            "The chance that at least one of {k} episodes solves a task, with its 95 % interval."
        );
        chart(
            format!("held_out/pass@{k}"),
            caption,
            "fraction",
            &|evaluation| match evaluation.pass_at.contains_key(k) {
                true => evaluation.pass_by_task(*k),
                false => ByTask::new(),
            },
        )
    };
    parts
        .into_iter()
        .map(part)
        .chain(rates.iter().map(rate))
        .collect()
}

/// The colour of the text.
const INK: &str = "$ink";

/// The return of every method with its parts, one bar per method.
pub(super) fn comparison(rows: &[Row]) -> Vec<Chart> {
    let mut environments: Vec<&str> = rows.iter().map(|row| row.environment.as_str()).collect();
    environments.dedup();
    let chart = |environment: &&str| {
        // Reversed, so that the first row is at the top of the chart.
        let rows: Vec<&Row> = rows
            .iter()
            .filter(|row| row.environment == **environment)
            .rev()
            .collect();
        let names = labels(&rows);
        let parts = rows[0].parts.keys().enumerate().map(|(index, part)| {
            let values: Vec<f64> = rows
                .iter()
                .map(|row| row.parts.get(part).map_or(0.0, |part| part.mean))
                .collect();
            let bars = bars(json!(values), json!(names), part, index);
            with(bars, "orientation", "h")
        });
        let returns: Vec<Estimate> = rows.iter().map(|row| row.mean_return).collect();
        let marker = json!({"color": INK, "size": 8});
        let total = dots(json!(means(&returns)), json!(names), "return", marker);
        let total = with(total, "error_x", errors(&returns, INK));
        let traces = parts.chain([total]).collect();
        let layout = json!({
            "barmode": "relative",
            "height": 150 + 40 * rows.len(),
            "xaxis": {"title": {"text": "return on held-out tasks"}},
            "yaxis": {"automargin": true},
        });
        let caption =
            "Bars are the parts of the return; the point is the return with its 95 % interval.";
        Chart::new(format!("Methods on {environment}"), caption, traces, layout)
    };
    environments.iter().map(chart).collect()
}

/// The labels of the rows. They must differ: bars with the same label would cover each other.
fn labels(rows: &[&Row]) -> Vec<String> {
    let labels: Vec<String> = rows.iter().map(|row| label(row)).collect();
    let is_ambiguous = |label: &String| labels.iter().filter(|other| *other == label).count() > 1;
    let labelled = rows.iter().zip(&labels);
    labelled
        .map(|(row, label)| match is_ambiguous(label) {
            true => format!("{label}, {}", plain(&row.runs.join(", "))),
            false => label.clone(),
        })
        .collect()
}

/// A method with its steps, tasks and seeds, which distinguish most rows.
fn label(row: &Row) -> String {
    let steps = row
        .step
        .filter(|step| *step > 0)
        .map_or_else(String::new, |step| format!(", {step} steps"));
    let seeds = row.seeds.len();
    let plural = if seeds == 1 { "" } else { "s" };
    // Two lines, so that the label fits on a phone.
    format!(
        "{}{steps}<br>{} tasks, {seeds} seed{plural}",
        plain(&row.method),
        row.tasks
    )
}

#[cfg(test)]
mod tests {
    use serde_json::Map;

    use super::*;
    use crate::{fixture, report::groups::groups};

    /// A run with one evaluation: two tasks with returns of 1 and 3, which have a single part.
    fn run(name: &str, recipe: &str, part: &str) -> Run {
        let mut evaluation = fixture::evaluation(&[(1.0, ""), (3.0, "")]);
        for episode in &mut evaluation.episodes {
            episode.parts = [(part.to_owned(), episode.episode_return)].into();
        }
        evaluation.parts = [(part.to_owned(), evaluation.mean_return)].into();
        Run {
            metrics: vec![Map::new()],
            evaluations: vec![evaluation],
            ..fixture::run(name, recipe, &[])
        }
    }

    #[test]
    fn a_part_is_drawn_for_the_runs_that_have_it() {
        let runs = [
            run("writing", fixture::TLDR, "length"),
            run("coding", fixture::COOP, "tests"),
        ];
        let charts = parts_and_pass_rates(&groups(&runs));
        let titles: Vec<&str> = charts.iter().map(|chart| chart.title.as_str()).collect();
        assert_eq!(titles, ["held_out/reward/length", "held_out/reward/tests"]);
        for (chart, name) in charts.iter().zip(["writing", "coding"]) {
            let [points] = chart.plot["data"].as_array().unwrap().as_slice() else {
                panic!("{name}: {}", chart.plot["data"]);
            };
            assert_eq!(points["name"], format!("MAGRPO ({name}), held out"));
            assert_eq!([&points["x"], &points["y"]], [&json!([0]), &json!([2.0])]);
            let error = &points["error_y"];
            assert_eq!(
                [&error["array"], &error["arrayminus"]],
                [&json!([1.0]), &json!([1.0])]
            );
        }
    }
}
