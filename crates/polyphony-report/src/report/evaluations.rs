//! Charts of evaluations: the returns of the methods, and figures of held-out tasks.

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

/// A figure of the runs' evaluations, over their tasks and seeds, at the steps that all runs have; `None`
/// where there is nowhere such a figure.
pub(super) fn held_out(
    group: &Group<'_>,
    index: usize,
    figure: &dyn Fn(&EvaluationRecord) -> ByTask<'_>,
) -> Option<Trace> {
    let steps = group.runs[0]
        .evaluations
        .iter()
        .filter_map(|evaluation| evaluation.step);
    let by_step: Vec<HashMap<usize, &EvaluationRecord>> = group.runs.iter().map(by_step).collect();
    let at = |step: usize| {
        let runs: Option<Vec<ByTask<'_>>> = by_step
            .iter()
            .map(|evaluations| Some(figure(evaluations.get(&step).copied()?)))
            .collect();
        let is_whole = |runs: &Vec<ByTask<'_>>| runs.iter().all(|tasks| !tasks.is_empty());
        Some((step, Estimate::of_runs(&runs.filter(is_whole)?)))
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

/// The first evaluation of a run at every step.
fn by_step<'a>(run: &&'a Run) -> HashMap<usize, &'a EvaluationRecord> {
    let mut evaluations = HashMap::new();
    for evaluation in &run.evaluations {
        if let Some(step) = evaluation.step {
            evaluations.entry(step).or_insert(evaluation);
        }
    }
    evaluations
}

/// The figures of the evaluations over steps: parts of the return, and pass@k.
pub(super) fn parts_and_pass_rates(groups: &[Group<'_>]) -> Vec<Chart> {
    let evaluations = || {
        groups
            .iter()
            .flat_map(|group| &group.runs)
            .flat_map(|run| &run.evaluations)
    };
    let parts: IndexSet<&String> = evaluations().flat_map(|own| own.parts.keys()).collect();
    let rates: IndexSet<usize> = evaluations()
        .flat_map(|own| own.pass_at.keys().copied())
        .collect();
    let chart = |title: String, caption, unit, figure: &dyn Fn(&EvaluationRecord) -> ByTask<'_>| {
        let lines = groups.iter().enumerate();
        let traces = lines
            .filter_map(|(index, group)| held_out(group, index, figure))
            .collect();
        Chart::new(title, caption, traces, over_steps(unit))
    };
    let part = |part: &String| {
        let caption = "Mean of this part of the return, with its 95 % interval.".to_owned();
        chart(
            format!("held_out/reward/{part}"),
            caption,
            "reward",
            // Other environments have other parts.
            &|evaluation| match evaluation.parts.contains_key(part) {
                true => evaluation.of_tasks(|played| value_of(&played.parts, part)),
                false => ByTask::new(),
            },
        )
    };
    let rate = |k: &usize| {
        let caption =
            format!("The chance that one of {k} episodes solves a task, with its 95 % interval.");
        chart(
            format!("held_out/pass@{k}"),
            caption,
            "share",
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

/// The colour of text.
const INK: &str = "$ink";

/// What every method reached, one bar each.
pub(super) fn comparison(rows: &[Row]) -> Vec<Chart> {
    let mut environments: Vec<&str> = rows.iter().map(|row| row.environment.as_str()).collect();
    environments.dedup();
    let chart = |environment: &&str| {
        // The first at the top.
        let own: Vec<&Row> = rows
            .iter()
            .filter(|row| row.environment == **environment)
            .rev()
            .collect();
        let names = labels(&own);
        let parts = own[0].parts.keys().enumerate().map(|(index, part)| {
            let values: Vec<f64> = own
                .iter()
                .map(|row| row.parts.get(part).map_or(0.0, |part| part.mean))
                .collect();
            let bars = bars(json!(values), json!(names), part, index);
            with(bars, "orientation", "h")
        });
        let returns: Vec<Estimate> = own.iter().map(|row| row.returns).collect();
        let marker = json!({"color": INK, "size": 8});
        let total = dots(json!(means(&returns)), json!(names), "return", marker);
        let total = with(total, "error_x", errors(&returns, INK));
        let traces = parts.chain([total]).collect();
        let layout = json!({
            "barmode": "relative",
            "height": 150 + 40 * own.len(),
            "xaxis": {"title": {"text": "return on held-out tasks"}},
            "yaxis": {"automargin": true},
        });
        let caption =
            "Bars are the parts of the return; the point is the return with its 95 % interval.";
        Chart::new(format!("Methods on {environment}"), caption, traces, layout)
    };
    environments.iter().map(chart).collect()
}

/// The rows' names, which must differ: bars of one name would lie on one another.
fn labels(rows: &[&Row]) -> Vec<String> {
    let labels: Vec<String> = rows.iter().map(|row| label(row)).collect();
    let alike = |own: &String| labels.iter().filter(|label| *label == own).count() > 1;
    let labelled = rows.iter().zip(&labels);
    labelled
        .map(|(row, label)| match alike(label) {
            true => format!("{label}, {}", plain(&row.runs.join(", "))),
            false => label.clone(),
        })
        .collect()
}

/// A method with what mostly tells its rows apart.
fn label(row: &Row) -> String {
    let steps = row
        .step
        .filter(|step| *step > 0)
        .map_or_else(String::new, |step| format!(", {step} steps"));
    let seeds = row.seeds.len();
    let plural = if seeds == 1 { "" } else { "s" };
    // On two lines, so that it fits on a phone.
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

    /// A run that was judged once: two tasks, worth 1 and 3, all of it in one part.
    fn run(name: &str, recipe: &str, part: &str) -> Run {
        let mut judged = fixture::evaluation(&[(1.0, ""), (3.0, "")]);
        for played in &mut judged.episodes {
            played.parts = [(part.to_owned(), played.value)].into();
        }
        judged.parts = [(part.to_owned(), judged.returns)].into();
        Run {
            metrics: vec![Map::new()],
            evaluations: vec![judged],
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
