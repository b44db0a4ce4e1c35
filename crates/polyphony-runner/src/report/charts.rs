//! Charts as plotly.js takes them. Colours are named `$0`, `$1`, … and, as bands, `~0`, `~1`, …: the
//! page's script puts in those of the theme.

mod judged;

use indexmap::IndexMap;
use plotly::{
    Bar, Layout, Plot, Scatter, Trace,
    common::{DashType, Fill, Line, Marker, Mode},
    layout::{Axis, BarMode},
};
use serde::Serialize;
use serde_json::Value;

pub(super) use self::judged::{comparison, judged};
use super::groups::Group;
use crate::{
    evaluation::Evaluation,
    metrics::Metric,
    series::{Series, smoothed, spread, window},
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

/// What a metric says, as a sentence, and axes with its unit; with `title` where it is a plain number.
fn explained(metric: &str, title: &str) -> (String, Layout) {
    let known = Metric::of(metric);
    let sentence = known.map_or_else(String::new, |known| format!("{}.", known.meaning));
    let unit = known.map_or("", |known| known.unit);
    let axis = if unit.is_empty() { title } else { unit };
    (sentence, over_steps().y_axis(Axis::new().title(axis)))
}

fn colour(index: usize) -> String {
    format!("${}", index % COLOURS)
}

/// Lines of one colour differ in their dashes.
fn dash(index: usize) -> DashType {
    match index / COLOURS {
        0 => DashType::Solid,
        1 => DashType::Dash,
        _ => DashType::Dot,
    }
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
        .line(Line::new().color(colour(of)).width(width).dash(dash(of)))
}

/// The smoothed mean over runs as a line, what lies between their least and greatest as a band, and the
/// values themselves as dots where there is one run.
fn curve(series: &[Series], name: &str, of: usize) -> Vec<Box<dyn Trace>> {
    let window = window(series);
    let smooth: Vec<Series> = series.iter().map(|own| smoothed(own, window)).collect();
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

const SMOOTH: &str = "Lines are means over a tenth of the steps that all seeds have; dots are single steps, bands reach from the \
                      least to the greatest of the seeds, where all of them have come that far.";

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
        traces.extend(judged::held_out(group, index, &Evaluation::by_task));
    }
    let caption = format!(
        "{SMOOTH} Diamonds are held-out tasks, with their 95 % interval over tasks and seeds."
    );
    let layout = over_steps().y_axis(Axis::new().title("return"));
    vec![Chart::new("Return over training", caption, traces, layout)]
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
    let pieces = time_pieces(
        of("step_secs")?,
        of("rollout_secs")?,
        of("reward_secs")?,
        of("update_secs")?,
    );
    let traces = pieces.into_iter().enumerate();
    let traces = traces
        .map(|(index, (name, series))| bars(name, index, series))
        .collect();
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

/// What the seconds of a step went to; together they are the step. Scoring is a part of rollout.
fn time_pieces(
    step: &Series,
    rollout: &Series,
    reward: &Series,
    update: &Series,
) -> [(&'static str, Series); 4] {
    let less = |whole: &Series, part: &Series| -> Series {
        let part: IndexMap<usize, f64> = part.iter().copied().collect();
        let rest = |(step, secs): &(usize, f64)| (*step, secs - part.get(step).unwrap_or(&0.0));
        whole.iter().map(rest).collect()
    };
    [
        ("sampling", less(rollout, reward)),
        ("scoring", reward.clone()),
        ("updates", update.clone()),
        ("rest", less(&less(step, rollout), update)),
    ]
}

fn bars(name: &str, of: usize, series: Series) -> Box<dyn Trace> {
    let (steps, values): (Vec<_>, Vec<_>) = series.into_iter().unzip();
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
        let (mut caption, layout) = explained(name, name);
        if !groups.iter().any(|group| has_values(group, name)) {
            caption += " No step has a value.";
        }
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
        let (caption, layout) = explained(&format!("<role>/{figure}"), figure);
        (!traces.is_empty()).then(|| Chart::new(*figure, caption, traces, layout))
    };
    figures.iter().filter_map(chart).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pieces_of_a_step_are_the_step() {
        let of = |secs: f64| vec![(1, secs), (2, 2.0 * secs)];
        let (step, rollout, reward, update) = (of(10.0), of(4.0), of(1.0), of(5.0));
        let pieces = time_pieces(&step, &rollout, &reward, &update);
        let names_and_secs = pieces.each_ref().map(|(name, series)| (*name, series[1].1));
        let expected = [
            ("sampling", 6.0),
            ("scoring", 2.0),
            ("updates", 10.0),
            ("rest", 2.0),
        ];
        assert_eq!(names_and_secs, expected);
        let whole: f64 = pieces.iter().map(|(_, series)| series[0].1).sum();
        assert_eq!(whole, step[0].1);
    }
}
