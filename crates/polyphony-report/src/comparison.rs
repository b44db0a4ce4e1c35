//! Runs side by side: the results of each method over seeds, and their cost.

mod experiment;
mod text;

use indexmap::{IndexMap, IndexSet};
use serde::Serialize;

use self::experiment::Experiment;
pub use self::text::comparison_text;
use crate::{
    error::{ReportError, Result},
    evaluation::{EpisodeRecord, EvaluationRecord, value_of},
    info::RunInfo,
    run::Run,
    settings::FlatSettings,
    statistics::{ByTask, Estimate, mean},
};

impl Run {
    /// A label such as `MAGRPO` or `single agent`: how the run is trained. For a baseline or a saved
    /// evaluation, which has no metrics, the label states how the answers were produced.
    pub fn method(&self) -> String {
        match (self.evaluations.last(), self.metrics.is_empty()) {
            (Some(last), true) => Experiment::of(self, last).method(),
            _ => self.training_method(),
        }
    }

    /// A label for how the run is trained, which is known even before the first step.
    pub fn training_method(&self) -> String {
        Experiment::of_training(self).method()
    }

    /// Whether another run differs only in its seed.
    pub(crate) fn differs_only_in_seed(&self, other: &Self) -> bool {
        Experiment::of_training(self).differs_only_in_seed(&Experiment::of_training(other))
    }

    /// The seed of the run that trained the team, or of this run if it was not trained.
    pub(crate) fn seed(&self) -> u64 {
        self.training_run().0.seed
    }

    /// The info and the settings of the run that trained the team.
    fn training_run(&self) -> (&RunInfo, &FlatSettings) {
        match (&self.info.training, &self.training) {
            (Some(info), Some(settings)) => (info, settings),
            _ => (&self.info, &self.settings),
        }
    }
}

/// The results of one method on the held-out tasks of an environment.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The environment, its number of turns and its data set.
    pub environment: String,
    /// A label for how the answers were produced.
    pub method: String,
    /// Training steps; `None` if they are not known.
    pub step: Option<usize>,
    /// The seeds of the runs.
    pub seeds: Vec<u64>,
    /// The names of their directories.
    pub runs: Vec<String>,
    /// Held-out tasks; where runs differ, the largest number.
    pub tasks: usize,
    /// Episodes per task.
    pub samples: usize,
    /// The return.
    #[serde(rename = "return")]
    pub mean_return: Estimate,
    /// Every part of the return.
    pub parts: IndexMap<String, Estimate>,
    /// pass@k by k: the chance that at least one of k episodes of a task is solved.
    pub pass_at: IndexMap<usize, Estimate>,
    /// The return of each role, if every run has a reward per role.
    #[serde(skip_serializing_if = "IndexMap::is_empty")]
    pub roles: IndexMap<String, Estimate>,
    /// Episodes that were skipped because a prompt did not fit.
    pub skipped_episodes: usize,
    /// Episodes that were cut short for the same reason.
    pub cut_episodes: usize,
    /// Completion tokens per episode.
    pub completion_tokens: f64,
    /// Prompt tokens per episode.
    pub prompt_tokens: f64,
    /// Seconds per episode, on the machines that played them.
    pub secs: f64,
}

/// An evaluation, with the run that it belongs to.
type RunEvaluation<'a> = (&'a Run, &'a EvaluationRecord);

/// An experiment with its evaluations, one per seed.
type SeedGroup<'a> = (Experiment<'a>, Vec<RunEvaluation<'a>>);

/// Compares the first and last evaluations of all runs. Evaluations that differ only in their seeds become
/// one row. The rows are grouped by environment, with untrained teams first in each group.
///
/// # Errors
/// If a run has not been evaluated yet, if two runs with the same recipe and seed have different results, or
/// if the rewards of two runs on the same environment have different parts.
pub fn compare<'a>(runs: impl IntoIterator<Item = &'a Run>) -> Result<Vec<Row>> {
    let groups = groups(runs)?;
    check_parts(&groups)?;
    let mut rows: Vec<Row> = groups
        .iter()
        .map(|(experiment, evaluations)| row(experiment, evaluations))
        .collect();
    for (index, (experiment, _)) in groups.iter().enumerate() {
        let same_label: Vec<&Experiment<'_>> = groups
            .iter()
            .map(|(other, _)| other)
            .filter(|other| other.has_same_row_label(experiment))
            .filter(|other| !other.differs_only_in_seed(experiment))
            .collect();
        match experiment.differing_settings(&same_label).as_str() {
            "" => {}
            differing_settings => rows[index].method += &format!(" ({differing_settings})"),
        }
    }
    rows.sort_by_cached_key(|row| (row.environment.clone(), row.step != Some(0), row.step));
    Ok(rows)
}

/// Groups the evaluations that differ only in their seeds.
fn groups<'a>(runs: impl IntoIterator<Item = &'a Run>) -> Result<Vec<SeedGroup<'a>>> {
    let mut groups: Vec<SeedGroup<'a>> = Vec::new();
    for run in runs {
        if run.evaluations.is_empty() {
            return Err(ReportError::NotEvaluated {
                path: run.path.clone(),
            });
        }
        for evaluation in run.first_and_last_evaluation().into_iter().flatten() {
            let experiment = Experiment::of(run, evaluation);
            let Some((_, group)) = groups
                .iter_mut()
                .find(|(known, _)| known.differs_only_in_seed(&experiment))
            else {
                groups.push((experiment, vec![(run, evaluation)]));
                continue;
            };
            let mut members = group.iter();
            match members.find(|member| seed(member) == seed(&(run, evaluation))) {
                None => group.push((run, evaluation)),
                // The same team with the same seed.
                Some((first, same)) if same.episodes == evaluation.episodes => log::info!(
                    "{} has the same result for `{}` as {}, and is left out of that row",
                    run.path.display(),
                    experiment.method(),
                    first.path.display()
                ),
                Some((first, _)) => {
                    return Err(ReportError::DifferentResults {
                        first: first.path.clone(),
                        second: run.path.clone(),
                    });
                }
            }
        }
    }
    for (_, group) in &mut groups {
        group.sort_by_key(seed);
    }
    Ok(groups)
}

/// The seed under which an evaluation counts in its row. For a saved evaluation of a trained team, it is the
/// seed of the training run. At step 0 nothing has been trained, so it is the seed of the run that made the
/// evaluation.
fn seed((run, evaluation): &RunEvaluation<'_>) -> u64 {
    match evaluation.step {
        Some(0) => run.info.seed,
        _ => run.seed(),
    }
}

/// Refuses evaluations of the same environment whose rewards have different parts: they come from different
/// versions of the environment.
fn check_parts(groups: &[SeedGroup<'_>]) -> Result<()> {
    let mut firsts: IndexMap<String, RunEvaluation<'_>> = IndexMap::new();
    for (experiment, group) in groups {
        for &(run, evaluation) in group {
            let environment = experiment.environment_text();
            let (first, expected) = *firsts.entry(environment).or_insert((run, evaluation));
            if !evaluation.parts.keys().eq(expected.parts.keys()) {
                return Err(ReportError::DifferentParts {
                    first: first.path.clone(),
                    second: run.path.clone(),
                });
            }
        }
    }
    Ok(())
}

fn row(experiment: &Experiment<'_>, group: &[RunEvaluation<'_>]) -> Row {
    let (_, first) = group[0];
    let evaluations = || group.iter().map(|(_, evaluation)| *evaluation);
    let estimate = |of: &dyn Fn(&EvaluationRecord) -> ByTask<'_>| {
        let mut runs = Vec::new();
        for (_, evaluation) in group {
            runs.push(of(evaluation));
        }
        Estimate::of_runs(&runs)
    };
    let episode_estimate =
        |of: &dyn Fn(&EpisodeRecord) -> f64| estimate(&|evaluation| evaluation.mean_by_task(of));
    let part = |part: &String| {
        (
            part.clone(),
            episode_estimate(&|episode| value_of(&episode.parts, part)),
        )
    };
    let numbers: IndexSet<usize> = evaluations()
        .flat_map(|evaluation| evaluation.pass_at.keys().copied())
        .collect();
    // Left out if a run has no task with k episodes.
    let rate = |k: usize| {
        let is_complete = evaluations().all(|evaluation| !evaluation.pass_by_task(k).is_empty());
        is_complete.then(|| (k, estimate(&|evaluation| evaluation.pass_by_task(k))))
    };
    let role = |role: &String| {
        let has_return = |episode: &EpisodeRecord| episode.roles.contains_key(role);
        let is_complete =
            evaluations().all(|evaluation| evaluation.episodes.iter().all(has_return));
        is_complete.then(|| {
            (
                role.clone(),
                episode_estimate(&|episode| episode.roles[role].episode_return),
            )
        })
    };
    let roles = first.episodes.first().into_iter();
    // The counts come from files, which may hold any number: the sum must not overflow.
    let sum_of =
        |of: fn(&EvaluationRecord) -> usize| evaluations().map(of).fold(0, usize::saturating_add);
    let mean_of = |of: &dyn Fn(&EvaluationRecord) -> f64| {
        // Skipped episodes have a cost too.
        let episodes = |evaluation: &EvaluationRecord| {
            let skipped = evaluation.skipped_episodes;
            evaluation.episodes.len().saturating_add(skipped)
        };
        let per_episode =
            |evaluation: &EvaluationRecord| of(evaluation) / episodes(evaluation) as f64;
        mean(&evaluations().map(per_episode).collect::<Vec<_>>())
    };
    Row {
        environment: experiment.environment_text(),
        method: experiment.method(),
        step: experiment.step,
        seeds: group.iter().map(seed).collect(),
        runs: group.iter().map(|(run, _)| run.name()).collect(),
        tasks: evaluations()
            .map(|evaluation| evaluation.tasks)
            .max()
            .unwrap_or(0),
        samples: first.samples,
        mean_return: episode_estimate(&|episode| episode.episode_return),
        parts: first.parts.keys().map(part).collect(),
        pass_at: numbers.into_iter().filter_map(rate).collect(),
        roles: roles
            .flat_map(|episode| episode.roles.keys())
            .filter_map(role)
            .collect(),
        skipped_episodes: sum_of(|evaluation| evaluation.skipped_episodes),
        cut_episodes: sum_of(|evaluation| evaluation.cut_episodes),
        completion_tokens: mean_of(&|evaluation| evaluation.completion_tokens as f64),
        prompt_tokens: mean_of(&|evaluation| evaluation.prompt_tokens as f64),
        secs: mean_of(&|evaluation| evaluation.timing.secs),
    }
}

#[cfg(test)]
mod tests;
