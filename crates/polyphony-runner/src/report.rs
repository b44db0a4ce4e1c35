//! The report of one run or several: one HTML page that needs nothing else.
//!
//! Start reading at [`page`]. [`groups`] puts runs together, [`charts`] draws their metrics, [`texts`]
//! chooses what was said. The page itself is `report/page.html` with its style and script; charts are drawn by
//! plotly.js, which the `plotly` crate carries.

mod charts;
mod groups;
mod texts;

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use indexmap::IndexSet;
use minijinja::{Environment, Value, context, value::Serde};
use serde::Serialize;

use self::charts::Chart;
use crate::{
    comparison::{Row, compare},
    run_files::Run,
};

/// The HTML page of some runs.
///
/// # Errors
/// If a run cannot be read, or has neither steps nor evaluations yet.
pub(crate) fn page(runs: &[&Path]) -> Result<String> {
    let all = runs
        .iter()
        .map(|path| Run::read(path))
        .collect::<Result<Vec<_>>>()?;
    let groups = groups::groups(&all);
    let is_judged = |run: &&Run| !run.evaluations.is_empty();
    ensure!(
        !groups.is_empty() || all.iter().any(|run| is_judged(&run)),
        "{} has neither steps nor evaluations yet: wait until the first is done",
        all[0].path.display()
    );
    let rows = compare(all.iter().filter(is_judged))?;
    let sections = [
        Section::new("Return", charts::returns(&groups)),
        Section {
            rows: rows.clone(),
            ..Section::new("Methods", charts::comparison(&rows))
        },
        Section::new("Held-out tasks", charts::judged(&groups)),
        Section::new("Parts of the reward", charts::parts(&groups)),
        Section::new("Agents", charts::agents(&groups)),
        Section::new("Health", charts::health(&groups)),
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
        plotly => Value::from_safe_string(plotly_script()),
        style => Value::from_safe_string(include_str!("report/page.css").to_owned()),
        script => Value::from_safe_string(include_str!("report/page.js").to_owned()),
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
    method: String,
    models: Vec<String>,
    seed: u64,
    /// Steps that are done, and for a training run those that there are to do.
    steps: String,
    samples: usize,
    learning_rate: f64,
    temperature: String,
    max_new_tokens: usize,
    /// Mean returns on held-out tasks.
    first: Option<String>,
    last: Option<String>,
    recipe: String,
}

impl About {
    fn of(run: &Run) -> Self {
        let recipe = &run.recipe;
        let roles = recipe.environment.roles().len();
        let models = recipe.team.models(roles).into_iter().map(str::to_owned);
        let [first, last] = run
            .ends()
            .map(|end| end.map(|evaluation| evaluation.returns.to_string()));
        Self {
            path: run.path.display().to_string(),
            method: run.method(),
            models: models.collect(),
            seed: recipe.seed,
            steps: match (run.metrics.len(), run.evaluations.last()) {
                (0, Some(last)) => last
                    .step
                    .map_or_else(|| "–".to_owned(), |step| step.to_string()),
                (steps, _) => format!("{steps} of {}", recipe.steps),
            },
            samples: recipe.algorithm.samples,
            learning_rate: recipe.updates.learning_rate,
            // As it was written: 0.7, not the nearest number of 32 bits in 64.
            temperature: recipe.sampling.temperature.to_string(),
            max_new_tokens: recipe.max_new_tokens,
            first,
            last,
            recipe: recipe.to_ron(),
        }
    }
}

fn title(runs: &[Run]) -> String {
    let environments: IndexSet<String> = runs
        .iter()
        .map(|run| run.recipe.environment.team_name())
        .collect();
    let names: Vec<String> = environments.into_iter().collect();
    format!("Polyphony: {}", names.join(", "))
}

fn render(values: Value) -> Result<String> {
    let mut templates = Environment::new();
    let add = templates.add_template("page.html", include_str!("report/page.html"));
    add.and_then(|()| templates.get_template("page.html")?.render(values))
        .context("writing the report")
}

/// The script of plotly.js without that for formulas, of which there are none here.
fn plotly_script() -> String {
    let mut both = plotly::Plot::offline_js_sources();
    let end = "</script>";
    both.truncate(both.find(end).map_or(0, |at| at + end.len()));
    both
}
