//! Groups runs that differ only in their seeds, so that they are drawn together.

use indexmap::IndexMap;
use polyphony_episode::MetricKey;

use crate::{
    metrics::{MetricInfo, STEP, flat_values},
    run::Run,
    series::{Series, step},
};

/// Runs that differ only in their seeds.
pub(super) struct Group<'a> {
    /// A label for how the runs were trained.
    pub(super) label: String,
    pub(super) runs: Vec<&'a Run>,
    /// The metrics by their names in files.
    pub(super) metrics: IndexMap<String, Curves>,
}

/// One metric of a group.
pub(super) struct Curves {
    pub(super) key: MetricKey,
    /// The unit and the meaning; empty if they are not known.
    pub(super) explanation: MetricInfo,
    /// One series per run.
    pub(super) series: Vec<Series>,
}

impl Curves {
    /// Whether any step has a value.
    pub(super) fn has_values(&self) -> bool {
        self.series.iter().any(|series| !series.is_empty())
    }
}

/// The runs that have steps, grouped.
pub(super) fn groups(runs: &[Run]) -> Vec<Group<'_>> {
    let mut groups: Vec<Vec<&Run>> = Vec::new();
    for run in runs.iter().filter(|run| !run.metrics.is_empty()) {
        match groups
            .iter_mut()
            .find(|group| group[0].differs_only_in_seed(run))
        {
            Some(group) => match group.iter().find(|member| member.seed() == run.seed()) {
                None => group.push(run),
                // If their results differ, the table of methods refuses both runs.
                Some(first) => log::info!(
                    "{} has the same recipe and seed as {}, and is left out of its curves",
                    run.path.display(),
                    first.path.display()
                ),
            },
            None => groups.push(vec![run]),
        }
    }
    let mut groups: Vec<Group<'_>> = groups
        .into_iter()
        .map(|runs| Group {
            label: runs[0].method(),
            metrics: collect(&runs),
            runs,
        })
        .collect();
    distinguish(&mut groups);
    groups
}

/// Adds the names of the runs to labels that several groups share.
fn distinguish(groups: &mut [Group<'_>]) {
    let labels: Vec<String> = groups.iter().map(|group| group.label.clone()).collect();
    for group in groups {
        if labels.iter().filter(|label| **label == group.label).count() > 1 {
            let names: Vec<String> = group.runs.iter().map(|run| run.name()).collect();
            group.label = format!("{} ({})", group.label, names.join(", "));
        }
    }
}

/// All metrics except `step`, read in one pass: every line may have names that no other line has.
fn collect(runs: &[&Run]) -> IndexMap<String, Curves> {
    let mut metrics: IndexMap<String, Curves> = IndexMap::new();
    for (index, run) in runs.iter().enumerate() {
        let roles = run.info.environment.role_names();
        for line in &run.metrics {
            let step = step(line);
            for (name, value) in flat_values(line).filter(|(name, _)| name != STEP) {
                let curves = metrics.entry(name).or_insert_with_key(|name| Curves {
                    key: run.catalog.key(name, &roles),
                    explanation: explanation(runs, name),
                    series: vec![Series::new(); runs.len()],
                });
                curves.series[index].extend(step.zip(value.as_f64()));
            }
        }
    }
    metrics
}

/// The explanation of a metric, from the first run that has one.
fn explanation(runs: &[&Run], name: &str) -> MetricInfo {
    let mut found = runs.iter().filter_map(|run| run.catalog.find(name));
    found
        .next()
        .map(|(_, explanation)| explanation.clone())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::fixture;

    fn run(name: &str, changes: &[&str], returns: &[f64]) -> Run {
        let line = |(step, value): (usize, &f64)| {
            let line = json!({"step": step, "return": value});
            line.as_object().unwrap().clone()
        };
        Run {
            metrics: (1..).zip(returns).map(line).collect(),
            ..fixture::run(name, fixture::TLDR, changes)
        }
    }

    #[test]
    fn seeds_are_grouped_and_each_counts_once() {
        let runs = [
            run("a", &["seed=1"], &[1.0, 2.0]),
            run("copy", &["seed=1"], &[1.0, 2.0]),
            run("baseline", &["seed=1"], &[]),
            run("b", &["seed=2"], &[3.0]),
            run("other", &["steps=9"], &[4.0]),
        ];
        let groups = groups(&runs);
        let names = |group: &Group<'_>| group.runs.iter().map(|run| run.name()).collect::<Vec<_>>();
        let all: Vec<Vec<String>> = groups.iter().map(names).collect();
        assert_eq!(all, [vec!["a", "b"], vec!["other"]]);
        let series = [vec![(1, 1.0), (2, 2.0)], vec![(1, 3.0)]];
        assert_eq!(groups[0].metrics["return"].series, series);
        // Two groups of the same method have different labels.
        let labels: Vec<&str> = groups.iter().map(|group| group.label.as_str()).collect();
        assert_eq!(labels, ["MAGRPO (a, b)", "MAGRPO (other)"]);
        let alone = super::groups(&runs[..1]);
        assert_eq!(alone[0].label, "MAGRPO");
    }
}
