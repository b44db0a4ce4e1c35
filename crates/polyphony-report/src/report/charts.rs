//! The charts of metrics, section by section.
//!
//! The lists of names below decide in which section a metric has its chart, and in which order. Other metrics
//! have their charts in the section of the algorithm or among all metrics, with the unit and the meaning that
//! the run stores.

use indexmap::{IndexMap, IndexSet};
use polyphony_episode::MetricKey;
use serde_json::{Value, json};

use super::{
    evaluations::held_out,
    groups::{Curves, Group},
    plot::{Chart, Trace, band_colour, bars, dots, line, over_steps, points, with},
};
use crate::{
    evaluation::EvaluationRecord,
    metrics::{MetricInfo, flat_name},
    series::{Series, mean_and_range, smoothed, window},
};

const RETURN: &str = "return";
const REWARD: &str = "reward";

/// The length and the variety of the agents' responses, and how they learn.
const AGENTS: [&str; 4] = [
    "completion_length",
    "entropy",
    "advantage_std",
    "learning_rate",
];

/// Signs of trouble: these should stay small, except `ratio`, which should stay close to 1.
const HEALTH: [&str; 9] = [
    "truncated_fraction",
    "zero_advantage_fraction",
    "logprob_gap",
    "grad_norm",
    "kl",
    "ratio",
    "approx_kl",
    "clip_fraction",
    "skipped_updates",
];

/// Metrics that have a chart only in the section of all metrics.
const COUNTS: [&str; 6] = [
    "gradient_steps",
    "skipped_groups",
    "nodes",
    "completion_tokens",
    "skipped_tasks",
    "cut_episodes",
];

const SPEED: [&str; 2] = ["timing.tokens_per_sec", "timing.peak_memory_mib"];

const SMOOTH: &str = "Lines are moving averages over a tenth of the steps; dots are single steps. With several seeds, \
                      lines are means and bands are ranges over the seeds, at the steps that all seeds have reached.";

/// The meaning of a metric as a sentence, and axes with its unit. A plain number has no unit: its axis shows
/// `title`.
fn caption_and_axes(explanation: &MetricInfo, title: &str) -> (String, Value) {
    let sentence = match explanation.meaning.as_str() {
        "" => String::new(),
        meaning => format!("{meaning}."),
    };
    let unit = match explanation.unit.as_str() {
        "" => title,
        unit => unit,
    };
    (sentence, over_steps(unit))
}

/// The smoothed mean over runs as a line, with the range over runs as a band. A single run has its values as
/// dots instead of the band.
fn curve(series: &[Series], name: &str, index: usize) -> Vec<Trace> {
    let window = window(series);
    let smooth: Vec<Series> = series.iter().map(|run| smoothed(run, window)).collect();
    let combined = mean_and_range(&smooth);
    let mut traces = Vec::new();
    if let [only] = series {
        let (steps, values) = points(only.iter().copied());
        let marker = json!({"color": band_colour(index), "size": 5});
        let each_step = dots(
            json!(steps),
            json!(values),
            &format!("{name}, each step"),
            marker,
        );
        traces.push(with(each_step, "showlegend", false));
    } else {
        let edge = |which: usize, label: &str| {
            let values = combined.iter().map(|(step, values)| (*step, values[which]));
            let trace = line(values, &format!("{name}, {label} of the seeds"), index, 0.0);
            with(trace, "showlegend", false)
        };
        traces.push(edge(1, "minimum"));
        let maximum = with(edge(2, "maximum"), "fill", "tonexty");
        traces.push(with(maximum, "fillcolor", band_colour(index)));
    }
    let means = combined.iter().map(|(step, [mean, ..])| (*step, *mean));
    traces.push(line(means, name, index, 2.5));
    traces
}

/// The return in training and on held-out tasks, and the return per role if there is one.
pub(super) fn returns(groups: &[Group<'_>]) -> Vec<Chart> {
    if groups.is_empty() {
        return Vec::new();
    }
    let mut traces = Vec::new();
    for (index, group) in groups.iter().enumerate() {
        if let Some(curves) = group.metrics.get(RETURN) {
            traces.extend(curve(&curves.series, &group.label, index));
        }
        traces.extend(held_out(group, index, &EvaluationRecord::by_task));
    }
    let caption = format!(
        "{SMOOTH} Diamonds are returns on held-out tasks with their 95 % interval over tasks and seeds."
    );
    let all = Chart::new("Return over training", caption, traces, over_steps(RETURN));
    let of_roles = by_role(groups, &[RoleMetric::named(RETURN)]).into_iter();
    let of_roles = of_roles.map(|chart| Chart {
        title: "Return of each role".to_owned(),
        ..chart
    });
    std::iter::once(all).chain(of_roles).collect()
}

/// Every part of the reward.
pub(super) fn parts(groups: &[Group<'_>]) -> Vec<Chart> {
    let mut charts = matching(groups, |key| key.role.is_none() && key.name == REWARD);
    charts.extend(by_role(
        groups,
        &role_metrics(groups, |key| key.name == REWARD),
    ));
    charts
}

/// The metrics of [`AGENTS`], per role and turn.
pub(super) fn agents(groups: &[Group<'_>]) -> Vec<Chart> {
    by_role(groups, &AGENTS.map(RoleMetric::named))
}

/// The metrics of [`HEALTH`], per role and turn.
pub(super) fn health(groups: &[Group<'_>]) -> Vec<Chart> {
    by_role(groups, &HEALTH.map(RoleMetric::named))
}

/// The metrics of the algorithm: everything that no other section has, except what environments count.
pub(super) fn algorithm(groups: &[Group<'_>]) -> Vec<Chart> {
    let is_of_algorithm = |key: &MetricKey| {
        let name = key.name.as_ref();
        let known = [RETURN, REWARD]
            .iter()
            .chain(&AGENTS)
            .chain(&HEALTH)
            .chain(&COUNTS);
        let is_of_environment = key.role.is_none() && name.contains('/');
        !key.is_timing() && !is_of_environment && !known.into_iter().any(|known| *known == name)
    };
    let mut charts = by_role(groups, &role_metrics(groups, is_of_algorithm));
    charts.extend(matching(groups, |key| {
        key.role.is_none() && is_of_algorithm(key)
    }));
    charts
}

/// Tokens per second, and where the time of a step goes.
pub(super) fn speed(groups: &[Group<'_>]) -> Vec<Chart> {
    let mut charts = matching(groups, |key| SPEED.contains(&flat_name(key).as_str()));
    for group in groups {
        charts.extend(where_time_goes(group));
        charts.extend(where_time_of_ranks_goes(group));
    }
    charts
}

/// The mean seconds of a step on each rank as stacked bars, for the group's first run; `None` if it had only one rank.
fn where_time_of_ranks_goes(group: &Group<'_>) -> Option<Chart> {
    let ranks = group.runs[0].info.ranks.as_ref()?.ranks;
    let mean_of = |name: &str| {
        let series = group
            .metrics
            .get(&format!("timing.{name}"))?
            .series
            .first()?;
        let sum: f64 = series.iter().map(|(_, secs)| secs).sum();
        Some(sum / series.len().max(1) as f64)
    };
    let step = mean_of("step_secs")?;
    let communication: Vec<f64> = (0..ranks)
        .map(|rank| mean_of(&format!("rank_{rank}.communication_secs")))
        .collect::<Option<_>>()?;
    let computation: Vec<f64> = communication
        .iter()
        .map(|secs| (step - secs).max(0.0))
        .collect();
    let names: Vec<String> = (0..ranks).map(|rank| format!("rank {rank}")).collect();
    let traces = vec![
        bars(json!(names), json!(computation), "computing", 0),
        bars(
            json!(names),
            json!(communication),
            "communicating or waiting",
            1,
        ),
    ];
    let caption = format!(
        "The mean seconds of a step of run {}.",
        group.runs[0].name()
    );
    Some(Chart::new(
        format!("Where the time of the ranks goes: {}", group.label),
        caption,
        traces,
        json!({"barmode": "stack", "yaxis": {"title": {"text": "seconds"}}}),
    ))
}

/// The seconds of each step as stacked bars, for the group's first run.
fn where_time_goes(group: &Group<'_>) -> Option<Chart> {
    let of = |name: &str| group.metrics.get(&format!("timing.{name}"))?.series.first();
    let pieces = time_pieces(
        of("step_secs")?,
        of("rollout_secs")?,
        of("reward_secs")?,
        of("update_secs")?,
    );
    let stacked = |(index, (name, series)): (usize, (&str, Series))| {
        let (steps, values) = points(series);
        bars(json!(steps), json!(values), name, index)
    };
    let traces = pieces.into_iter().enumerate().map(stacked).collect();
    let caption = format!("The seconds of every step of run {}.", group.runs[0].name());
    Some(Chart::new(
        format!("Where the time goes: {}", group.label),
        caption,
        traces,
        with(over_steps("seconds"), "barmode", "stack"),
    ))
}

/// The seconds of a step by activity, which add up to the step. The time of the rollout includes scoring.
fn time_pieces(
    step: &Series,
    rollout: &Series,
    reward: &Series,
    update: &Series,
) -> [(&'static str, Series); 4] {
    let difference = |whole: &Series, part: &Series| -> Series {
        let part: IndexMap<usize, f64> = part.iter().copied().collect();
        let minus_part =
            |(step, secs): &(usize, f64)| (*step, secs - part.get(step).unwrap_or(&0.0));
        whole.iter().map(minus_part).collect()
    };
    [
        ("sampling", difference(rollout, reward)),
        ("scoring", reward.clone()),
        ("updates", update.clone()),
        ("rest", difference(&difference(step, rollout), update)),
    ]
}

/// Every metric by its name.
pub(super) fn all(groups: &[Group<'_>]) -> Vec<Chart> {
    let charts = matching(groups, |_| true);
    charts.into_iter().map(Chart::small).collect()
}

/// One chart for each metric whose key matches, with a line for each group.
fn matching(groups: &[Group<'_>], is_match: impl Fn(&MetricKey) -> bool) -> Vec<Chart> {
    let is_match = |(_, curves): &(&String, &Curves)| is_match(&curves.key);
    let metrics = groups.iter().flat_map(|group| &group.metrics);
    let names: IndexSet<&String> = metrics.filter(is_match).map(|(name, _)| name).collect();
    let chart = |name: &String| {
        let of_groups = || {
            let groups = groups.iter().enumerate();
            groups.filter_map(|(index, group)| Some((index, group, group.metrics.get(name)?)))
        };
        let lines = of_groups()
            .flat_map(|(index, group, curves)| curve(&curves.series, &group.label, index));
        let explanations = of_groups().map(|(_, _, curves)| &curves.explanation);
        let (mut caption, layout) = caption_and_axes(first_explanation(explanations), name);
        if !of_groups().any(|(_, _, curves)| curves.has_values()) {
            caption += " No step has a value.";
        }
        Chart::new(name.clone(), caption.trim_start(), lines.collect(), layout)
    };
    names.into_iter().map(chart).collect()
}

/// The first explanation that is not empty.
fn first_explanation<'a>(explanations: impl Iterator<Item = &'a MetricInfo>) -> &'a MetricInfo {
    const EMPTY: &MetricInfo = &MetricInfo {
        unit: String::new(),
        meaning: String::new(),
    };
    explanations
        .into_iter()
        .find(|explanation| *explanation != EMPTY)
        .unwrap_or(EMPTY)
}

/// A metric without its role and turn.
#[derive(Clone, PartialEq, Eq, Hash)]
struct RoleMetric {
    name: String,
    part: Option<String>,
}

impl RoleMetric {
    fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            part: None,
        }
    }

    fn of(key: &MetricKey) -> Self {
        Self {
            name: key.name.to_string(),
            part: key.part.clone(),
        }
    }

    fn title(&self) -> String {
        match &self.part {
            Some(part) => format!("{}/{part}", self.name),
            None => self.name.clone(),
        }
    }
}

/// The metrics of roles whose keys match, in the order in which the run writes them.
fn role_metrics(groups: &[Group<'_>], is_match: impl Fn(&MetricKey) -> bool) -> Vec<RoleMetric> {
    let keys = groups
        .iter()
        .flat_map(|group| group.metrics.values())
        .map(|curves| &curves.key);
    let of_roles = keys.filter(|key| key.role.is_some() && is_match(key));
    let metrics: IndexSet<RoleMetric> = of_roles.map(RoleMetric::of).collect();
    metrics.into_iter().collect()
}

/// One chart for each metric, with a line for each role of each group, or for each role and turn. Metrics
/// without values are left out here; they are in the section of all metrics.
fn by_role(groups: &[Group<'_>], metrics: &[RoleMetric]) -> Vec<Chart> {
    let of_roles = curves_of_roles(groups);
    let chart = |metric: &RoleMetric| {
        let lines = of_roles.get(metric)?;
        let mut traces = Vec::new();
        for (index, (group, curves)) in lines.iter().enumerate() {
            let role = curves.key.role.as_deref().unwrap_or_default();
            let turn = curves
                .key
                .turn
                .map_or_else(String::new, |turn| format!(", turn {turn}"));
            let label = match groups.len() {
                1 => format!("{role}{turn}"),
                _ => format!("{role}{turn}: {}", group.label),
            };
            traces.extend(curve(&curves.series, &label, index));
        }
        let explanations = lines.iter().map(|(_, curves)| &curves.explanation);
        let title = metric.title();
        let (caption, layout) = caption_and_axes(first_explanation(explanations), &title);
        Some(Chart::new(title, caption, traces, layout))
    };
    metrics.iter().filter_map(chart).collect()
}

/// The curves of all metrics of roles that have values.
fn curves_of_roles<'a>(
    groups: &'a [Group<'a>],
) -> IndexMap<RoleMetric, Vec<(&'a Group<'a>, &'a Curves)>> {
    let mut of_roles: IndexMap<RoleMetric, Vec<_>> = IndexMap::new();
    for group in groups {
        for curves in group.metrics.values() {
            if curves.key.role.is_some() && curves.has_values() {
                let lines = of_roles.entry(RoleMetric::of(&curves.key)).or_default();
                lines.push((group, curves));
            }
        }
    }
    of_roles
}

#[cfg(test)]
mod tests;
