//! The report of one or more runs: a self-contained HTML page.
//!
//! Start reading at [`page`]. [`groups`] groups the runs that differ only in their seeds, [`charts`] draws
//! their metrics, [`evaluations`] draws their returns on held-out tasks, and [`texts`] selects responses to
//! show. The page itself is `report/page.html` with its style and script. plotly.js draws the charts; its
//! basic bundle is in `report/plotly`.

mod charts;
mod evaluations;
mod groups;
mod plot;
mod texts;

use std::path::Path;

use indexmap::IndexSet;
use minijinja::{
    Environment, Value, context,
    value::{Serde, ValueKind},
};
use serde::Serialize;

use self::plot::Chart;
use crate::{
    comparison::{Row, compare},
    error::{ReportError, Result},
    run::Run,
    visible::visible,
};

/// The bundle of plotly.js with lines, dots and bars.
const PLOTLY: &str = include_str!("report/plotly/plotly-basic.min.js");

/// The script of the page, which draws the charts.
const SCRIPT: &str = include_str!("report/page.js");

/// Limits what a browser lets the page do, whatever text gets into it: the page loads nothing, and runs only
/// the two scripts with these digests. Inline styles are allowed because plotly.js sets them.
const POLICY: &str = "default-src 'none'; \
    script-src 'sha256-l1Aje0LZevOGwlrWRNhYrFt3Nd1l6Fg+MskjTVUdt/Q=' \
    'sha256-cbr0UcVG0iD1+sGF3n9Jcvr1iPnnUZ5WteRMJcPQjvM='; \
    style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'";

/// A self-contained HTML page with the report of these runs.
///
/// # Errors
/// If no run is given, a run cannot be read, no run has steps or evaluations yet, or the evaluated runs
/// cannot be [compared](compare).
pub fn page(runs: &[&Path]) -> Result<String> {
    let all = runs
        .iter()
        .map(|path| Run::read(path))
        .collect::<Result<Vec<_>>>()?;
    let first = all.first().ok_or(ReportError::NoRuns)?;
    let groups = groups::groups(&all);
    let is_evaluated = |run: &&Run| !run.evaluations.is_empty();
    if groups.is_empty() && !all.iter().any(|run| is_evaluated(&run)) {
        return Err(ReportError::Nothing {
            path: first.path.clone(),
        });
    }
    let rows = compare(all.iter().filter(is_evaluated))?;
    let sections = [
        Section::new("Return", charts::returns(&groups)),
        Section {
            rows: rows.clone(),
            ..Section::new("Methods", evaluations::comparison(&rows))
        },
        Section::new("Held-out tasks", evaluations::parts_and_pass_rates(&groups)),
        Section::new("Parts of the reward", charts::parts(&groups)),
        Section::new("Agents", charts::agents(&groups)),
        Section::new("Health", charts::health(&groups)),
        Section::new("Algorithm", charts::algorithm(&groups)),
        Section::new("Speed", charts::speed(&groups)),
        Section {
            is_folded: true,
            ..Section::new("All metrics", charts::all(&groups))
        },
    ];
    let sections: Vec<Section> = sections
        .into_iter()
        .filter(|section| !section.charts.is_empty())
        .collect();
    render(context! {
        title => title(&all),
        runs => Serde(all.iter().map(RunSummary::of).collect::<Vec<_>>()),
        sections => Serde(sections),
        texts => Serde(texts::choose(&all)),
        notes => Serde(all.iter().flat_map(|run| &run.missing).collect::<Vec<_>>()),
        plotly => Value::from_safe_string(PLOTLY.to_owned()),
        style => Value::from_safe_string(include_str!("report/page.css").to_owned()),
        script => Value::from_safe_string(SCRIPT.to_owned()),
        policy => Value::from_safe_string(POLICY.to_owned()),
    })
}

/// Charts under a heading.
#[derive(Serialize)]
struct Section {
    title: &'static str,
    charts: Vec<Chart>,
    /// Whether it is collapsed at first.
    is_folded: bool,
    /// The rows of the table below the charts.
    rows: Vec<Row>,
}

impl Section {
    fn new(title: &'static str, charts: Vec<Chart>) -> Self {
        Self {
            title,
            charts,
            is_folded: false,
            rows: Vec::new(),
        }
    }
}

/// A run's row in the table at the top of the page.
#[derive(Serialize)]
struct RunSummary {
    path: String,
    program: String,
    method: String,
    models: Vec<String>,
    seed: u64,
    /// Completed steps; for a training run, followed by the planned number.
    steps: String,
    /// Settings as the recipe has them.
    samples: String,
    learning_rate: String,
    temperature: String,
    max_new_tokens: String,
    /// The mean returns of the first and the last evaluation.
    first: Option<String>,
    last: Option<String>,
    recipe: String,
}

/// Shown instead of an unknown value.
const UNKNOWN: &str = "–";

impl RunSummary {
    fn of(run: &Run) -> Self {
        let setting = |path| {
            run.settings
                .get(path)
                .map_or(UNKNOWN, String::as_str)
                .to_owned()
        };
        let program = run.info.program.as_ref();
        let [first, last] = run
            .first_and_last_evaluation()
            .map(|evaluation| evaluation.map(|evaluation| evaluation.mean_return.to_string()));
        Self {
            path: run.path.display().to_string(),
            program: program.map_or_else(
                || UNKNOWN.to_owned(),
                |program| format!("{} {}", program.name, program.version),
            ),
            method: run.method(),
            models: run.info.models.clone(),
            seed: run.info.seed,
            steps: match (run.metrics.len(), run.evaluations.last()) {
                (0, Some(last)) => last
                    .step
                    .map_or_else(|| UNKNOWN.to_owned(), |step| step.to_string()),
                (steps, _) => format!("{steps} of {}", run.info.steps),
            },
            samples: setting("algorithm.samples"),
            learning_rate: setting("updates.learning_rate"),
            temperature: setting("sampling.temperature"),
            max_new_tokens: setting("max_new_tokens"),
            first,
            last,
            recipe: run.recipe.clone(),
        }
    }
}

fn title(runs: &[Run]) -> String {
    let environments = runs
        .iter()
        .map(|run| run.info.environment.comparison_name.as_str());
    let names: IndexSet<&str> = environments.collect();
    let names: Vec<&str> = names.into_iter().collect();
    format!("Polyphony: {}", names.join(", "))
}

fn render(values: Value) -> Result<String> {
    let mut templates = Environment::new();
    let add = templates.add_template("page.html", include_str!("report/page.html"));
    add.and_then(|()| templates.get_template("page.html")?.render(shown(values)?))
        .map_err(|error| ReportError::Page(Box::new(error)))
}

/// The value with all its texts made safe to show: the files of a run may contain anything.
fn shown(value: Value) -> std::result::Result<Value, minijinja::Error> {
    Ok(match (value.kind(), value.as_str()) {
        (_, Some(text)) if !value.is_safe() => Value::from(&*visible(text)),
        (ValueKind::Seq, _) => {
            let items = value.try_iter()?.map(shown);
            Value::from(items.collect::<std::result::Result<Vec<_>, _>>()?)
        }
        (ValueKind::Map, _) => {
            let entry = |key: Value| Ok((shown(key.clone())?, shown(value.get_item(&key)?)?));
            let entries = value.try_iter()?.map(entry);
            Value::from_pairs(entries.collect::<std::result::Result<Vec<_>, minijinja::Error>>()?)
        }
        _ => value,
    })
}

#[cfg(test)]
mod tests;
