//! The report of one run or several: one HTML page that needs nothing else.
//!
//! Start reading at [`page`]. [`groups`] puts runs together, [`charts`] draws their metrics and
//! [`evaluations`] their returns on held-out tasks, and [`texts`] chooses what was said. The page itself is
//! `report/page.html` with its style and script; charts are drawn by plotly.js, whose basic bundle lies in
//! `report/plotly`.

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

/// plotly.js with lines, dots and bars.
const PLOTLY: &str = include_str!("report/plotly/plotly-basic.min.js");

/// What the page runs when its charts are drawn.
const SCRIPT: &str = include_str!("report/page.js");

/// What a browser lets the page do, whatever got into it: it loads nothing, and runs the two scripts with these
/// digests alone. plotly.js sets styles.
const POLICY: &str = "default-src 'none'; \
    script-src 'sha256-l1Aje0LZevOGwlrWRNhYrFt3Nd1l6Fg+MskjTVUdt/Q=' \
    'sha256-cA+rB55WMvFh58SekiZMlSfrVRX7J72GGwVq9RobLtw='; \
    style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'";

/// The HTML page of some runs. It holds everything that it needs.
///
/// # Errors
/// If a run cannot be read, or has neither steps nor evaluations yet.
pub fn page(runs: &[&Path]) -> Result<String> {
    let all = runs
        .iter()
        .map(|path| Run::read(path))
        .collect::<Result<Vec<_>>>()?;
    let first = all.first().ok_or(ReportError::NoRuns)?;
    let groups = groups::groups(&all);
    let is_judged = |run: &&Run| !run.evaluations.is_empty();
    if groups.is_empty() && !all.iter().any(|run| is_judged(&run)) {
        return Err(ReportError::Nothing {
            path: first.path.clone(),
        });
    }
    let rows = compare(all.iter().filter(is_judged))?;
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
        runs => Serde(all.iter().map(About::of).collect::<Vec<_>>()),
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
    /// Whether it is closed at first: nobody reads all of it.
    is_folded: bool,
    /// Rows that stand below the charts as a table.
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

/// What a run did, in a few words.
#[derive(Serialize)]
struct About {
    path: String,
    program: String,
    method: String,
    models: Vec<String>,
    seed: u64,
    /// Steps that are done, and for a training run those that there are to do.
    steps: String,
    /// FlatSettings of the recipe, as they stand there.
    samples: String,
    learning_rate: String,
    temperature: String,
    max_new_tokens: String,
    /// Mean returns on held-out tasks.
    first: Option<String>,
    last: Option<String>,
    recipe: String,
}

/// What stands where nothing is known.
const UNKNOWN: &str = "–";

impl About {
    fn of(run: &Run) -> Self {
        let setting = |path| {
            run.settings
                .get(path)
                .map_or(UNKNOWN, String::as_str)
                .to_owned()
        };
        let program = run.info.program.as_ref();
        let [first, last] = run
            .ends()
            .map(|end| end.map(|evaluation| evaluation.returns.to_string()));
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
        .map(|run| run.info.environment.team_name.as_str());
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

/// The value with all texts in it as they are shown: whatever comes from a run's files may hold anything.
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
