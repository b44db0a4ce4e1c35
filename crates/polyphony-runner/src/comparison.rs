//! Several runs side by side: what each method reached, over seeds, and what it cost.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use indexmap::IndexMap;
use polyphony_marl::{Baseline, Protocol};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::{
    environment::EnvironmentKind,
    evaluation::{Evaluation, Played},
    recipe::Recipe,
    run_files,
    statistics::{Estimate, mean},
};

/// A run as it lies on the disk.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub(crate) path: PathBuf,
    pub(crate) recipe: Recipe,
    /// The figures of every step; none of a baseline.
    pub(crate) metrics: Vec<Map<String, Value>>,
    pub(crate) evaluations: Vec<Evaluation>,
}

impl Run {
    /// # Errors
    /// If the path is no run's directory, or its files cannot be read.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            recipe: run_files::recipe(path, &[])?,
            metrics: run_files::metrics(path)?,
            evaluations: run_files::evaluations(path)?,
        })
    }

    /// A short name.
    pub(crate) fn name(&self) -> String {
        let name = self.path.file_name().unwrap_or(self.path.as_os_str());
        name.to_string_lossy().into_owned()
    }

    /// How its answers came about at last, in words.
    pub(crate) fn method(&self) -> String {
        match (self.evaluations.last(), self.metrics.is_empty()) {
            (Some(last), true) => Setting::of(self, last).method(),
            _ => Setting::trained(self).method(),
        }
    }

    /// Whether another run does the same with another seed.
    pub(crate) fn is_alike(&self, other: &Self) -> bool {
        Setting::trained(self) == Setting::trained(other)
    }

    /// The first and the last evaluation; one of them where they are the same.
    fn ends(&self) -> impl Iterator<Item = &Evaluation> {
        let first = self.evaluations.first();
        let last = self
            .evaluations
            .last()
            .filter(|_| self.evaluations.len() > 1);
        first.into_iter().chain(last)
    }
}

/// What one method reached on the held-out tasks of an environment.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    /// The environment, as the team plays it.
    pub(crate) environment: String,
    /// How the answers came about.
    pub(crate) method: String,
    /// Training steps; `None` where they are not known.
    pub(crate) step: Option<usize>,
    /// The seeds of the runs.
    pub(crate) seeds: Vec<u64>,
    /// The names of their directories.
    pub(crate) runs: Vec<String>,
    /// Held-out tasks, and episodes of each.
    pub(crate) tasks: usize,
    pub(crate) samples: usize,
    #[serde(rename = "return")]
    pub(crate) returns: Estimate,
    pub(crate) parts: IndexMap<String, Estimate>,
    pub(crate) pass_at: IndexMap<usize, Estimate>,
    /// Tokens that the agents sampled and read in an episode.
    pub(crate) sampled_tokens: f64,
    pub(crate) read_tokens: f64,
    /// Seconds an episode, on the machines where it was played.
    pub(crate) secs: f64,
}

/// What two evaluations have in common that are the same but for their seeds.
#[derive(Clone, Debug, PartialEq)]
struct Setting {
    step: Option<usize>,
    protocol: Protocol,
    recipe: Recipe,
}

impl Setting {
    /// That of a run's team at its end.
    fn trained(run: &Run) -> Self {
        Self {
            step: Some(run.recipe.steps),
            protocol: Protocol::Parallel,
            recipe: without_seed(&run.recipe),
        }
    }

    fn of(run: &Run, evaluation: &Evaluation) -> Self {
        let mut recipe = without_seed(&run.recipe);
        recipe.evaluation.tasks = evaluation.tasks;
        if evaluation.step == Some(0) {
            // What would have come later is nothing to a team that has not learned.
            recipe.train = recipe.held_out.clone();
            recipe.algorithm = Default::default();
            recipe.updates = Default::default();
            recipe.fine_tuning = Default::default();
            recipe.steps = 1;
            recipe.tasks_per_step = 1;
        }
        Self {
            step: evaluation.step,
            protocol: evaluation.protocol,
            recipe,
        }
    }

    /// How the answers came about, in words.
    fn method(&self) -> String {
        let is_single = matches!(self.recipe.environment, EnvironmentKind::Solo(_));
        let protocol = match (is_single, self.protocol) {
            (true, _) => "single agent",
            (false, Protocol::Parallel) => "parallel",
            (false, Protocol::Pipeline) => "pipeline",
            (false, Protocol::Discussion) => "discussion",
        };
        let algorithm = match (self.step, is_single, self.recipe.algorithm.baseline) {
            (Some(0), ..) => return protocol.to_owned(),
            (None, ..) => "given agents",
            (_, true, Baseline::GroupMean) => "GRPO",
            (_, false, Baseline::GroupMean) => "MAGRPO",
            (_, _, Baseline::LeaveOneOut) => "MARLOO",
            (_, _, Baseline::GroupMax) => "MAReMax",
            (_, _, Baseline::Zero) => "MAREINFORCE",
        };
        match (is_single, self.protocol) {
            (false, Protocol::Parallel) => algorithm.to_owned(),
            _ => format!("{algorithm}, {protocol}"),
        }
    }
}

/// What a run does but for its seed, and for what changes none of its figures.
fn without_seed(recipe: &Recipe) -> Recipe {
    let mut recipe = Recipe {
        seed: 0,
        checkpoints: Default::default(),
        devices: Default::default(),
        ..recipe.clone()
    };
    recipe.evaluation.every = None;
    recipe
}

/// The first and last evaluations of all runs; those that differ in their seeds alone in one row. Rows of
/// one environment follow one another, those without training first.
///
/// # Errors
/// If a run has not been evaluated yet.
pub(crate) fn compare(runs: &[Run]) -> Result<Vec<Row>> {
    let mut groups: Vec<(Setting, Vec<(&Run, &Evaluation)>)> = Vec::new();
    for run in runs {
        ensure!(
            !run.evaluations.is_empty(),
            "{} has no evaluation yet: wait until its first one is done",
            run.path.display()
        );
        for evaluation in run.ends() {
            let setting = Setting::of(run, evaluation);
            match groups.iter_mut().find(|(own, _)| *own == setting) {
                None => groups.push((setting, vec![(run, evaluation)])),
                // The same seed gives the same figures.
                Some((_, group))
                    if group
                        .iter()
                        .any(|(own, _)| own.recipe.seed == run.recipe.seed) => {}
                Some((_, group)) => group.push((run, evaluation)),
            }
        }
    }
    let mut rows: Vec<Row> = groups
        .iter()
        .map(|(setting, group)| row(setting, group))
        .collect();
    rows.sort_by_cached_key(|row| (row.environment.clone(), row.step != Some(0), row.step));
    Ok(rows)
}

fn row(setting: &Setting, group: &[(&Run, &Evaluation)]) -> Row {
    let (_, first) = group[0];
    let figure = |of: &dyn Fn(&Played) -> f64| {
        let runs = group.iter().map(|(_, evaluation)| evaluation.of_tasks(of));
        Estimate::of_runs(&runs.collect::<Vec<_>>())
    };
    let part = |part: &String| (part.clone(), figure(&|played| played.parts[part]));
    let rate = |k: &usize| {
        let runs = group
            .iter()
            .map(|(_, evaluation)| evaluation.pass_by_task(*k));
        (*k, Estimate::of_runs(&runs.collect::<Vec<_>>()))
    };
    let mean_of = |of: &dyn Fn(&Evaluation) -> f64| {
        let per_episode =
            |evaluation: &Evaluation| of(evaluation) / evaluation.episodes.len() as f64;
        mean(
            &group
                .iter()
                .map(|(_, evaluation)| per_episode(evaluation))
                .collect::<Vec<_>>(),
        )
    };
    Row {
        environment: setting.recipe.environment.team_name(),
        method: setting.method(),
        step: setting.step,
        seeds: group.iter().map(|(run, _)| run.recipe.seed).collect(),
        runs: group.iter().map(|(run, _)| run.name()).collect(),
        tasks: first.tasks,
        samples: first.samples,
        returns: figure(&|played| played.value),
        parts: first.parts.keys().map(part).collect(),
        pass_at: first.pass_at.keys().map(rate).collect(),
        sampled_tokens: mean_of(&|evaluation| evaluation.sampled_tokens as f64),
        read_tokens: mean_of(&|evaluation| evaluation.read_tokens as f64),
        secs: mean_of(&|evaluation| evaluation.timing.secs),
    }
}
