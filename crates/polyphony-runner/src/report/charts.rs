//! Charts as plotly.js takes them. Colours are named `$0`, `$1`, … and, as bands, `~0`, `~1`, …: the
//! page's script puts in those of the theme.

use indexmap::IndexMap;
use plotly::{
    Bar, Layout, Plot, Scatter, Trace,
    common::{ErrorData, ErrorType, Fill, Line, Marker, Mode, Orientation},
    layout::{Axis, BarMode},
};
use serde::Serialize;
use serde_json::Value;

use super::groups::Group;
use crate::{
    comparison::Row,
    series::{Series, smoothed, spread},
};

/// Colours that a theme has.
const COLOURS: usize = 8;

/// A chart with its heading.
#[derive(Serialize)]
pub(super) struct Chart {
    title: String,
    /// What its values are.
    caption: String,
    /// As plotly.js takes it.
    plot: Value,
    is_small: bool,
}

impl Chart {
    fn new(
        title: impl Into<String>,
        caption: impl Into<String>,
        traces: Vec<Box<dyn Trace>>,
        layout: Layout,
    ) -> Self {
        let mut plot = Plot::new();
        plot.add_traces(traces);
        plot.set_layout(layout);
        Self {
            title: title.into(),
            caption: caption.into(),
            // What the crate has written is JSON.
            plot: serde_json::from_str(&plot.to_json()).unwrap_or_default(),
            is_small: false,
        }
    }

    fn small(self) -> Self {
        Self {
            is_small: true,
            ..self
        }
    }
}

fn over_steps() -> Layout {
    Layout::new().x_axis(Axis::new().title("step"))
}

fn colour(index: usize) -> String {
    format!("${}", index % COLOURS)
}

fn band_colour(index: usize) -> String {
    format!("~{}", index % COLOURS)
}

fn line(
    series: impl IntoIterator<Item = (usize, f64)>,
    name: &str,
    of: usize,
    width: f64,
) -> Box<Scatter<usize, f64>> {
    let (steps, values): (Vec<_>, Vec<_>) = series.into_iter().unzip();
    Scatter::new(steps, values)
        .name(name)
        .mode(Mode::Lines)
        .line(Line::new().color(colour(of)).width(width))
}

/// The smoothed mean over runs as a line, what lies between their least and greatest as a band, and the
/// values themselves as dots where there is one run.
fn curve(series: &[Series], name: &str, of: usize) -> Vec<Box<dyn Trace>> {
    let smooth: Vec<Series> = series.iter().map(smoothed).collect();
    let together = spread(&smooth);
    let mut traces: Vec<Box<dyn Trace>> = Vec::new();
    if let [only] = series {
        let (steps, values): (Vec<_>, Vec<_>) = only.iter().copied().unzip();
        traces.push(
            Scatter::new(steps, values)
                .name(format!("{name}, each step"))
                .mode(Mode::Markers)
                .marker(Marker::new().color(band_colour(of)).size(5))
                .show_legend(false),
        );
    } else {
        let edge = |which: usize| {
            line(
                together.iter().map(|(step, all)| (*step, all[which])),
                name,
                of,
                0.0,
            )
            .show_legend(false)
        };
        traces.push(edge(1).name(format!("{name}, least of the seeds")));
        traces.push(
            edge(2)
                .name(format!("{name}, greatest of the seeds"))
                .fill(Fill::ToNextY)
                .fill_color(band_colour(of)),
        );
    }
    traces.push(line(
        together.iter().map(|(step, [mean, ..])| (*step, *mean)),
        name,
        of,
        2.5,
    ));
    traces
}

const SMOOTH: &str = "Lines are means over a tenth of the steps; dots are single steps, bands reach from the \
                      least to the greatest of the seeds.";

/// The return in training and on held-out tasks.
pub(super) fn returns(groups: &[Group<'_>]) -> Vec<Chart> {
    if groups.is_empty() {
        return Vec::new();
    }
    let mut traces = Vec::new();
    for (index, group) in groups.iter().enumerate() {
        if let Some(series) = group.metrics.get("return") {
            traces.extend(curve(series, &group.label, index));
        }
        traces.push(held_out(group, index));
    }
    let caption =
        format!("{SMOOTH} Diamonds are held-out tasks, with the 95 % interval of the first run.");
    let layout = over_steps().y_axis(Axis::new().title("return"));
    vec![Chart::new("Return over training", caption, traces, layout)]
}

/// The mean return of the runs' evaluations by step.
fn held_out(group: &Group<'_>, index: usize) -> Box<dyn Trace> {
    let mut by_step: IndexMap<usize, Vec<f64>> = IndexMap::new();
    for evaluation in group.runs.iter().flat_map(|run| &run.evaluations) {
        if let Some(step) = evaluation.step {
            by_step
                .entry(step)
                .or_default()
                .push(evaluation.returns.mean);
        }
    }
    by_step.sort_keys();
    let mean = |values: &Vec<f64>| values.iter().sum::<f64>() / values.len() as f64;
    let means: Vec<f64> = by_step.values().map(mean).collect();
    let evaluations = &group.runs[0].evaluations;
    let interval = |step: &usize| {
        let own = evaluations
            .iter()
            .find(|evaluation| evaluation.step == Some(*step));
        let estimate = own.map(|evaluation| evaluation.returns);
        estimate.and_then(|own| {
            own.interval
                .map(|[low, high]| [own.mean - low, high - own.mean])
        })
    };
    let (below, above) = by_step
        .keys()
        .map(|step| interval(step).unwrap_or([0.0; 2]))
        .map(|[below, above]| (below, above))
        .unzip();
    Scatter::new(by_step.keys().copied().collect(), means)
        .name(format!("{}, held out", group.label))
        .mode(Mode::Markers)
        .marker(
            Marker::new()
                .color(colour(index))
                .size(10)
                .symbol(plotly::common::MarkerSymbol::Diamond),
        )
        .error_y(errors(below, above, colour(index)))
}

fn errors(below: Vec<f64>, above: Vec<f64>, colour: String) -> ErrorData {
    ErrorData::new(ErrorType::Data)
        .symmetric(false)
        .array(above)
        .array_minus(below)
        .color(colour)
        .thickness(1.5)
}

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
            let values = own
                .iter()
                .map(|row| row.parts.get(part).map_or(0.0, |part| part.mean))
                .collect();
            let bar = Bar::new(values, names.clone())
                .name(part)
                .orientation(Orientation::Horizontal);
            bar.marker(Marker::new().color(colour(index))) as Box<dyn Trace>
        });
        let interval = |row: &&Row| row.returns.interval.unwrap_or([row.returns.mean; 2]);
        let below = own
            .iter()
            .map(|row| row.returns.mean - interval(row)[0])
            .collect();
        let above = own
            .iter()
            .map(|row| interval(row)[1] - row.returns.mean)
            .collect();
        let total = Scatter::new(
            own.iter().map(|row| row.returns.mean).collect(),
            names.clone(),
        )
        .name("return")
        .mode(Mode::Markers)
        .marker(Marker::new().color("$ink".to_owned()).size(8))
        .error_x(errors(below, above, "$ink".to_owned()));
        let traces = parts.chain([total as Box<dyn Trace>]).collect();
        let layout = Layout::new()
            .bar_mode(BarMode::Relative)
            .height(150 + 40 * own.len())
            .x_axis(Axis::new().title("return on held-out tasks"))
            .y_axis(Axis::new().auto_margin(true));
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
            true => format!("{label}, {}", row.runs.join(", ")),
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
        row.method, row.tasks
    )
}

/// Every part of the reward.
pub(super) fn parts(groups: &[Group<'_>]) -> Vec<Chart> {
    matching(groups, |name| name.contains("reward/"))
}

/// How long and how varied the agents' responses are, role by role and turn by turn.
pub(super) fn agents(groups: &[Group<'_>]) -> Vec<Chart> {
    by_role(
        groups,
        &[
            "response_tokens",
            "entropy",
            "advantage_spread",
            "learning_rate",
        ],
    )
}

/// What should stay small.
pub(super) fn health(groups: &[Group<'_>]) -> Vec<Chart> {
    by_role(
        groups,
        &[
            "truncated_share",
            "zero_advantage_share",
            "logprob_gap",
            "gradient_norm",
            "kl",
            "ratio",
            "clipped_share",
            "refused_updates",
        ],
    )
}

/// Tokens a second, and where the seconds of a step go.
pub(super) fn speed(groups: &[Group<'_>]) -> Vec<Chart> {
    let mut charts = matching(groups, |name| {
        name == "timing.tokens_per_sec" || name == "timing.peak_memory_mib"
    });
    for group in groups {
        charts.extend(where_time_goes(group));
    }
    charts
}

/// The seconds of a step as a stack, of the group's first run.
fn where_time_goes(group: &Group<'_>) -> Option<Chart> {
    let of = |name: &str| group.metrics.get(&format!("timing.{name}"))?.first();
    let whole = of("step_secs")?;
    let pieces = ["rollout_secs", "reward_secs", "update_secs"].map(|name| (name, of(name)));
    let mut rest: IndexMap<usize, f64> = whole.iter().copied().collect();
    let mut traces: Vec<Box<dyn Trace>> = Vec::new();
    for (index, (name, series)) in pieces.into_iter().enumerate() {
        let series = series?;
        for (step, value) in series {
            rest.entry(*step).and_modify(|rest| *rest -= value);
        }
        traces.push(bars(name, index, series.iter().copied()));
    }
    traces.push(bars(
        "rest",
        7,
        rest.into_iter().map(|(step, secs)| (step, secs.max(0.0))),
    ));
    let layout = over_steps()
        .bar_mode(BarMode::Stack)
        .y_axis(Axis::new().title("seconds"));
    let caption = format!("The seconds of every step, run {}.", group.runs[0].name());
    Some(Chart::new(
        format!("Where the time goes: {}", group.label),
        caption,
        traces,
        layout,
    ))
}

fn bars(name: &str, of: usize, series: impl Iterator<Item = (usize, f64)>) -> Box<dyn Trace> {
    let (steps, values): (Vec<_>, Vec<_>) = series.unzip();
    Bar::new(steps, values)
        .name(name)
        .marker(Marker::new().color(colour(of)))
}

/// Every metric by its name.
pub(super) fn all(groups: &[Group<'_>]) -> Vec<Chart> {
    let charts = matching(groups, |_| true);
    charts.into_iter().map(Chart::small).collect()
}

/// One chart for each metric that is wanted and has values, a line for each group.
fn matching(groups: &[Group<'_>], wanted: impl Fn(&str) -> bool) -> Vec<Chart> {
    let mut names: Vec<&String> = Vec::new();
    for name in groups.iter().flat_map(|group| group.metrics.keys()) {
        if wanted(name) && !names.contains(&name) {
            names.push(name);
        }
    }
    let chart = |name: &String| {
        let lines = groups.iter().enumerate().filter_map(|(index, group)| {
            Some(curve(group.metrics.get(name)?, &group.label, index))
        });
        let caption = match groups.iter().any(|group| has_values(group, name)) {
            true => "",
            false => "No step has a value.",
        };
        let layout = over_steps().y_axis(Axis::new().title(name.clone()));
        Chart::new(name.clone(), caption, lines.flatten().collect(), layout)
    };
    names.into_iter().map(chart).collect()
}

fn has_values(group: &Group<'_>, name: &str) -> bool {
    let series = group.metrics.get(name);
    series.is_some_and(|series| series.iter().any(|series| !series.is_empty()))
}

/// One chart for each figure, a line for each role, or role and turn, of each group. Figures that no
/// step has are left out: they are among all metrics.
fn by_role(groups: &[Group<'_>], figures: &[&str]) -> Vec<Chart> {
    let chart = |figure: &&str| {
        let mut traces = Vec::new();
        let mut colour = 0;
        for group in groups {
            let ending = format!("/{figure}");
            for (name, series) in &group.metrics {
                let Some(who) = name.strip_suffix(&ending) else {
                    continue;
                };
                if !has_values(group, name) {
                    continue;
                }
                let who = who.replace('/', ", ").replace("turn_", "turn ");
                let label = match groups.len() {
                    1 => who,
                    _ => format!("{who}: {}", group.label),
                };
                traces.extend(curve(series, &label, colour));
                colour += 1;
            }
        }
        let layout = over_steps().y_axis(Axis::new().title(*figure));
        (!traces.is_empty()).then(|| Chart::new(*figure, "", traces, layout))
    };
    figures.iter().filter_map(chart).collect()
}
