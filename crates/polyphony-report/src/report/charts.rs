//! The charts of metrics, section by section.
//!
//! Metrics are told apart by their keys. The names below say where a chart stands and in which order; one
//! that none of them names has its chart among those of the algorithm or among all metrics, with the unit
//! and the meaning that the run has kept of it.

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
    metrics::{Explanation, flat_name},
    series::{Series, smoothed, spread, window},
};

const RETURN: &str = "return";
const REWARD: &str = "reward";

/// How long and how varied the agents' responses are.
const AGENTS: [&str; 4] = [
    "completion_length",
    "entropy",
    "advantage_std",
    "learning_rate",
];

/// What should stay small.
const HEALTH: [&str; 8] = [
    "truncated_fraction",
    "zero_advantage_fraction",
    "logprob_gap",
    "grad_norm",
    "kl",
    "ratio",
    "clip_fraction",
    "skipped_updates",
];

/// What has no chart but among all metrics.
const COUNTS: [&str; 6] = [
    "gradient_steps",
    "skipped_groups",
    "nodes",
    "completion_tokens",
    "skipped_tasks",
    "cut_episodes",
];

const SPEED: [&str; 2] = ["timing.tokens_per_sec", "timing.peak_memory_mib"];

const SMOOTH: &str = "Lines are means over a tenth of the steps that all seeds have; dots are single steps, bands reach from the \
                      least to the greatest of the seeds, where all of them have come that far.";

/// What a metric says, as a sentence, and axes with its unit; with `title` where it is a plain number.
fn explained(known: &Explanation, title: &str) -> (String, Value) {
    let sentence = match known.meaning.as_str() {
        "" => String::new(),
        meaning => format!("{meaning}."),
    };
    let unit = match known.unit.as_str() {
        "" => title,
        unit => unit,
    };
    (sentence, over_steps(unit))
}

/// The smoothed mean over runs as a line, what lies between their least and greatest as a band, and the
/// values themselves as dots where there is one run.
fn curve(series: &[Series], name: &str, index: usize) -> Vec<Trace> {
    let window = window(series);
    let smooth: Vec<Series> = series.iter().map(|own| smoothed(own, window)).collect();
    let together = spread(&smooth);
    let mut traces = Vec::new();
    if let [only] = series {
        let (steps, values) = points(only.iter().copied());
        let marker = json!({"color": band_colour(index), "size": 5});
        let each = dots(
            json!(steps),
            json!(values),
            &format!("{name}, each step"),
            marker,
        );
        traces.push(with(each, "showlegend", false));
    } else {
        let edge = |which: usize, says: &str| {
            let values = together.iter().map(|(step, all)| (*step, all[which]));
            let trace = line(values, &format!("{name}, {says} of the seeds"), index, 0.0);
            with(trace, "showlegend", false)
        };
        traces.push(edge(1, "least"));
        let greatest = with(edge(2, "greatest"), "fill", "tonexty");
        traces.push(with(greatest, "fillcolor", band_colour(index)));
    }
    let means = together.iter().map(|(step, [mean, ..])| (*step, *mean));
    traces.push(line(means, name, index, 2.5));
    traces
}

/// The return in training and on held-out tasks, and those of the roles where each has its own.
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
        "{SMOOTH} Diamonds are held-out tasks, with their 95 % interval over tasks and seeds."
    );
    let all = Chart::new("Return over training", caption, traces, over_steps(RETURN));
    let of_roles = by_role(groups, &[Figure::named(RETURN)]).into_iter();
    let of_roles = of_roles.map(|chart| Chart {
        title: "Return of each role".to_owned(),
        ..chart
    });
    std::iter::once(all).chain(of_roles).collect()
}

/// Every part of the reward.
pub(super) fn parts(groups: &[Group<'_>]) -> Vec<Chart> {
    let mut charts = matching(groups, |key| key.role.is_none() && key.name == REWARD);
    charts.extend(by_role(groups, &figures(groups, |key| key.name == REWARD)));
    charts
}

/// How long and how varied the agents' responses are, role by role and turn by turn.
pub(super) fn agents(groups: &[Group<'_>]) -> Vec<Chart> {
    by_role(groups, &AGENTS.map(Figure::named))
}

/// What should stay small.
pub(super) fn health(groups: &[Group<'_>]) -> Vec<Chart> {
    by_role(groups, &HEALTH.map(Figure::named))
}

/// What an algorithm says of its own: everything that no other section has, and what environments count
/// left out.
pub(super) fn algorithm(groups: &[Group<'_>]) -> Vec<Chart> {
    let is_own = |key: &MetricKey| {
        let name = key.name.as_ref();
        let known = [RETURN, REWARD]
            .iter()
            .chain(&AGENTS)
            .chain(&HEALTH)
            .chain(&COUNTS);
        let is_of_environment = key.role.is_none() && name.contains('/');
        !key.is_timing() && !is_of_environment && !known.into_iter().any(|known| *known == name)
    };
    let mut charts = by_role(groups, &figures(groups, is_own));
    charts.extend(matching(groups, |key| key.role.is_none() && is_own(key)));
    charts
}

/// Tokens a second, and where the seconds of a step go.
pub(super) fn speed(groups: &[Group<'_>]) -> Vec<Chart> {
    let mut charts = matching(groups, |key| SPEED.contains(&flat_name(key).as_str()));
    for group in groups {
        charts.extend(where_time_goes(group));
    }
    charts
}

/// The seconds of a step as a stack, of the group's first run.
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
    let caption = format!("The seconds of every step, run {}.", group.runs[0].name());
    Some(Chart::new(
        format!("Where the time goes: {}", group.label),
        caption,
        traces,
        with(over_steps("seconds"), "barmode", "stack"),
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

/// Every metric by its name.
pub(super) fn all(groups: &[Group<'_>]) -> Vec<Chart> {
    let charts = matching(groups, |_| true);
    charts.into_iter().map(Chart::small).collect()
}

/// One chart for each metric that is wanted and has values, a line for each group.
fn matching(groups: &[Group<'_>], wanted: impl Fn(&MetricKey) -> bool) -> Vec<Chart> {
    let wanted = |(_, curves): &(&String, &Curves)| wanted(&curves.key);
    let metrics = groups.iter().flat_map(|group| &group.metrics);
    let names: IndexSet<&String> = metrics.filter(wanted).map(|(name, _)| name).collect();
    let chart = |name: &String| {
        let own = || {
            let groups = groups.iter().enumerate();
            groups.filter_map(|(index, group)| Some((index, group, group.metrics.get(name)?)))
        };
        let lines =
            own().flat_map(|(index, group, curves)| curve(&curves.series, &group.label, index));
        let known = own().map(|(_, _, curves)| &curves.explanation);
        let (mut caption, layout) = explained(most_known(known), name);
        if !own().any(|(_, _, curves)| curves.has_values()) {
            caption += " No step has a value.";
        }
        Chart::new(name.clone(), caption.trim_start(), lines.collect(), layout)
    };
    names.into_iter().map(chart).collect()
}

/// The first that says anything.
fn most_known<'a>(known: impl Iterator<Item = &'a Explanation>) -> &'a Explanation {
    const NOTHING: &Explanation = &Explanation {
        unit: String::new(),
        meaning: String::new(),
    };
    known
        .into_iter()
        .find(|known| *known != NOTHING)
        .unwrap_or(NOTHING)
}

/// What several roles have a metric of.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Figure {
    name: String,
    part: Option<String>,
}

impl Figure {
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

/// The figures of roles that are wanted, in the order in which they are written.
fn figures(groups: &[Group<'_>], wanted: impl Fn(&MetricKey) -> bool) -> Vec<Figure> {
    let keys = groups
        .iter()
        .flat_map(|group| group.metrics.values())
        .map(|curves| &curves.key);
    let of_roles = keys.filter(|key| key.role.is_some() && wanted(key));
    let figures: IndexSet<Figure> = of_roles.map(Figure::of).collect();
    figures.into_iter().collect()
}

/// One chart for each figure, a line for each role, or role and turn, of each group. Figures that no
/// step has are left out: they are among all metrics.
fn by_role(groups: &[Group<'_>], figures: &[Figure]) -> Vec<Chart> {
    let of_roles = curves_of_roles(groups);
    let chart = |figure: &Figure| {
        let own = of_roles.get(figure)?;
        let mut traces = Vec::new();
        for (index, (group, curves)) in own.iter().enumerate() {
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
        let known = own.iter().map(|(_, curves)| &curves.explanation);
        let title = figure.title();
        let (caption, layout) = explained(most_known(known), &title);
        Some(Chart::new(title, caption, traces, layout))
    };
    figures.iter().filter_map(chart).collect()
}

/// The metrics of roles that have values, by what they are of.
fn curves_of_roles<'a>(
    groups: &'a [Group<'a>],
) -> IndexMap<Figure, Vec<(&'a Group<'a>, &'a Curves)>> {
    let mut of_roles: IndexMap<Figure, Vec<_>> = IndexMap::new();
    for group in groups {
        for curves in group.metrics.values() {
            if curves.key.role.is_some() && curves.has_values() {
                let own = of_roles.entry(Figure::of(&curves.key)).or_default();
                own.push((group, curves));
            }
        }
    }
    of_roles
}

#[cfg(test)]
mod tests;
