//! Runs that differ in their seeds alone, which are drawn together.

use indexmap::IndexMap;

use crate::{
    run_files::Run,
    series::{Series, names, of_run},
};

/// Runs that differ in their seeds alone.
pub(super) struct Group<'a> {
    /// How they were trained.
    pub(super) label: String,
    pub(super) runs: Vec<&'a Run>,
    /// For each metric a series of every run.
    pub(super) metrics: IndexMap<String, Vec<Series>>,
}

/// The runs that have steps, grouped.
pub(super) fn groups(runs: &[Run]) -> Vec<Group<'_>> {
    let mut groups: Vec<Vec<&Run>> = Vec::new();
    for run in runs.iter().filter(|run| !run.metrics.is_empty()) {
        match groups.iter_mut().find(|group| group[0].is_alike(run)) {
            Some(group) => group.push(run),
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

/// Adds what tells groups of the same label apart: the names of their runs.
fn distinguish(groups: &mut [Group<'_>]) {
    let labels: Vec<String> = groups.iter().map(|group| group.label.clone()).collect();
    for group in groups {
        if labels.iter().filter(|label| **label == group.label).count() > 1 {
            let names: Vec<String> = group.runs.iter().map(|run| run.name()).collect();
            group.label = format!("{} ({})", group.label, names.join(", "));
        }
    }
}

fn collect(runs: &[&Run]) -> IndexMap<String, Vec<Series>> {
    let all = runs.iter().flat_map(|run| names(run));
    let series = |name: &String| runs.iter().map(|run| of_run(run, name)).collect();
    let mut metrics = IndexMap::new();
    for name in all {
        if !metrics.contains_key(&name) {
            let series = series(&name);
            metrics.insert(name, series);
        }
    }
    metrics
}
