//! Runs side by side: the results of each method over seeds, and their cost.

mod setting;
mod text;

use indexmap::{IndexMap, IndexSet};
use serde::Serialize;

use self::setting::Setting;
pub use self::text::comparison_text;
use crate::{
    error::{ReportError, Result},
    evaluation::{EvaluationRecord, EpisodeRecord, value_of},
    info::RunInfo,
    run::Run,
    settings::FlatSettings,
    statistics::{ByTask, Estimate, mean},
};

impl Run {
    /// How its last answers were produced, in words.
    pub fn method(&self) -> String {
        match (self.evaluations.last(), self.metrics.is_empty()) {
            (Some(last), true) => Setting::of(self, last).method(),
            _ => self.training_method(),
        }
    }

    /// How it is trained, in words, even before its first step.
    pub fn training_method(&self) -> String {
        Setting::trained(self).method()
    }

    /// Whether another run differs only in its seed.
    pub(crate) fn is_alike(&self, other: &Self) -> bool {
        Setting::trained(self).is_same(&Setting::trained(other))
    }

    /// The seed of its team's training, or of its answers if the team was not trained.
    pub(crate) fn seed(&self) -> u64 {
        self.origin().0.seed
    }

    /// The info and the settings of the run that trained its team.
    fn origin(&self) -> (&RunInfo, &FlatSettings) {
        match (&self.info.training, &self.training) {
            (Some(info), Some(settings)) => (info, settings),
            _ => (&self.info, &self.settings),
        }
    }
}

/// The results of one method on the held-out tasks of an environment.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The environment with its turns and data.
    pub environment: String,
    /// How the answers were produced.
    pub method: String,
    /// Training steps; `None` if they are not known.
    pub step: Option<usize>,
    /// The seeds of the runs.
    pub seeds: Vec<u64>,
    /// The names of their directories.
    pub runs: Vec<String>,
    /// Held-out tasks, of the run that played the most.
    pub tasks: usize,
    /// Episodes per task.
    pub samples: usize,
    /// The return.
    #[serde(rename = "return")]
    pub returns: Estimate,
    /// Every part of it.
    pub parts: IndexMap<String, Estimate>,
    /// pass@k by k: the chance that at least one of k episodes of a task is solved.
    pub pass_at: IndexMap<usize, Estimate>,
    /// The return of each role, if the roles have their own rewards in all runs.
    #[serde(skip_serializing_if = "IndexMap::is_empty")]
    pub roles: IndexMap<String, Estimate>,
    /// Episodes that were left out, since a prompt did not fit.
    pub skipped_episodes: usize,
    /// Episodes that were cut short for the same reason.
    pub cut_episodes: usize,
    /// Sampled tokens per episode.
    pub completion_tokens: f64,
    /// Prompt tokens per episode.
    pub prompt_tokens: f64,
    /// Seconds per episode, on the machines that played them.
    pub secs: f64,
}

/// A setting and the evaluations that have it.
type Evaluated<'a> = (Setting<'a>, Vec<(&'a Run, &'a EvaluationRecord)>);

/// Compares the first and last evaluations of all runs; those that differ only in their seeds make one row.
/// The rows of an environment are adjacent, those without training first.
///
/// # Errors
/// If a run has not been evaluated yet, two runs of one recipe and seed differ, or their rewards have
/// different parts.
pub fn compare<'a>(runs: impl IntoIterator<Item = &'a Run>) -> Result<Vec<Row>> {
    let groups = groups(runs)?;
    check_parts(&groups)?;
    let mut rows: Vec<Row> = groups
        .iter()
        .map(|(setting, group)| row(setting, group))
        .collect();
    for (index, (setting, _)) in groups.iter().enumerate() {
        let others: Vec<&Setting<'_>> = groups
            .iter()
            .map(|(other, _)| other)
            .filter(|other| other.is_named_like(setting) && !other.is_same(setting))
            .collect();
        match setting.distinction(&others).as_str() {
            "" => {}
            distinction => rows[index].method += &format!(" ({distinction})"),
        }
    }
    rows.sort_by_cached_key(|row| (row.environment.clone(), row.step != Some(0), row.step));
    Ok(rows)
}

fn groups<'a>(runs: impl IntoIterator<Item = &'a Run>) -> Result<Vec<Evaluated<'a>>> {
    let mut groups: Vec<Evaluated<'a>> = Vec::new();
    for run in runs {
        if run.evaluations.is_empty() {
            return Err(ReportError::NotEvaluated {
                path: run.path.clone(),
            });
        }
        for evaluation in run.ends().into_iter().flatten() {
            let setting = Setting::of(run, evaluation);
            let Some((_, group)) = groups.iter_mut().find(|(own, _)| own.is_same(&setting)) else {
                groups.push((setting, vec![(run, evaluation)]));
                continue;
            };
            let mut members = group.iter();
            match members.find(|own| seed(own) == seed(&(run, evaluation))) {
                None => group.push((run, evaluation)),
                // The same team with the same seed.
                Some((other, same)) if same.episodes == evaluation.episodes => log::info!(
                    "{} has the same result of `{}` as {}, and is left out of its row",
                    run.path.display(),
                    setting.method(),
                    other.path.display()
                ),
                Some((other, _)) => {
                    return Err(ReportError::OtherResults {
                        first: other.path.clone(),
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

/// The seed of an evaluation: that of its team's training, or of its answers if nothing was learned.
fn seed((run, evaluation): &(&Run, &EvaluationRecord)) -> u64 {
    match evaluation.step {
        Some(0) => run.info.seed,
        _ => run.seed(),
    }
}

/// Refuses evaluations of the same environment whose rewards have different parts: those of another version.
fn check_parts(groups: &[Evaluated<'_>]) -> Result<()> {
    let mut firsts: IndexMap<String, (&Run, &EvaluationRecord)> = IndexMap::new();
    for (setting, group) in groups {
        for &(run, evaluation) in group {
            let (other, known) = *firsts.entry(setting.stage()).or_insert((run, evaluation));
            if !evaluation.parts.keys().eq(known.parts.keys()) {
                return Err(ReportError::OtherParts {
                    first: other.path.clone(),
                    second: run.path.clone(),
                });
            }
        }
    }
    Ok(())
}

fn row(setting: &Setting<'_>, group: &[(&Run, &EvaluationRecord)]) -> Row {
    let (_, first) = group[0];
    let evaluations = || group.iter().map(|(_, evaluation)| *evaluation);
    let estimate = |of: &dyn Fn(&EvaluationRecord) -> ByTask<'_>| {
        let mut runs = Vec::new();
        for (_, evaluation) in group {
            runs.push(of(evaluation));
        }
        Estimate::of_runs(&runs)
    };
    let figure = |of: &dyn Fn(&EpisodeRecord) -> f64| estimate(&|evaluation| evaluation.of_tasks(of));
    let part = |part: &String| {
        (
            part.clone(),
            figure(&|played| value_of(&played.parts, part)),
        )
    };
    let numbers: IndexSet<usize> = evaluations()
        .flat_map(|evaluation| evaluation.pass_at.keys().copied())
        .collect();
    // Left out if a run has this many episodes of no task.
    let rate = |k: usize| {
        let is_whole = evaluations().all(|evaluation| !evaluation.pass_by_task(k).is_empty());
        is_whole.then(|| (k, estimate(&|evaluation| evaluation.pass_by_task(k))))
    };
    let role = |role: &String| {
        let has_own = |played: &EpisodeRecord| played.roles.contains_key(role);
        let is_whole = evaluations().all(|evaluation| evaluation.episodes.iter().all(has_own));
        is_whole.then(|| (role.clone(), figure(&|played| played.roles[role].value)))
    };
    let roles = first.episodes.first().into_iter();
    // The counts come from files, which may hold any number.
    let sum_of =
        |of: fn(&EvaluationRecord) -> usize| evaluations().map(of).fold(0, usize::saturating_add);
    let mean_of = |of: &dyn Fn(&EvaluationRecord) -> f64| {
        // Episodes that were left out have a cost too.
        let episodes = |own: &EvaluationRecord| own.episodes.len().saturating_add(own.skipped_episodes);
        let per_episode = |own: &EvaluationRecord| of(own) / episodes(own) as f64;
        mean(&evaluations().map(per_episode).collect::<Vec<_>>())
    };
    Row {
        environment: setting.stage(),
        method: setting.method(),
        step: setting.step,
        seeds: group.iter().map(seed).collect(),
        runs: group.iter().map(|(run, _)| run.name()).collect(),
        tasks: evaluations().map(|own| own.tasks).max().unwrap_or(0),
        samples: first.samples,
        returns: figure(&|played| played.value),
        parts: first.parts.keys().map(part).collect(),
        pass_at: numbers.into_iter().filter_map(rate).collect(),
        roles: roles
            .flat_map(|played| played.roles.keys())
            .filter_map(role)
            .collect(),
        skipped_episodes: sum_of(|own| own.skipped_episodes),
        cut_episodes: sum_of(|own| own.cut_episodes),
        completion_tokens: mean_of(&|evaluation| evaluation.completion_tokens as f64),
        prompt_tokens: mean_of(&|evaluation| evaluation.prompt_tokens as f64),
        secs: mean_of(&|evaluation| evaluation.timing.secs),
    }
}

#[cfg(test)]
mod tests;
