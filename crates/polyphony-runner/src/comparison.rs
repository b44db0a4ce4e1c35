//! Several runs side by side: what each method reached, over seeds, and what it cost.

use anyhow::{Result, bail, ensure};
use indexmap::{IndexMap, IndexSet};
use polyphony_env::{EmbeddedSet, Source};
use polyphony_marl::{Algorithm, Baseline, Protocol};
use serde::Serialize;

use crate::{
    environment::EnvironmentKind,
    evaluation::{Evaluation, Played},
    recipe::Recipe,
    run_files::Run,
    statistics::{ByTask, Estimate, mean},
};

impl Run {
    /// How its answers came about at last, in words.
    pub(crate) fn method(&self) -> String {
        match (self.evaluations.last(), self.metrics.is_empty()) {
            (Some(last), true) => Setting::of(self, last).method(),
            _ => self.training_method(),
        }
    }

    /// How it is trained, in words, also before its first step.
    pub(crate) fn training_method(&self) -> String {
        Setting::trained(self).method()
    }

    /// Whether another run does the same with another seed.
    pub(crate) fn is_alike(&self, other: &Self) -> bool {
        Setting::trained(self) == Setting::trained(other)
    }

    /// The seed that its team was made with, or, if it was not made, that of its answers.
    pub(crate) fn seed(&self) -> u64 {
        self.origin().seed
    }

    /// The recipe that its team comes from.
    fn origin(&self) -> &Recipe {
        self.training.as_ref().unwrap_or(&self.recipe)
    }
}

/// What one method reached on the held-out tasks of an environment.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    /// The environment, as the team plays it, with its turns and data.
    pub(crate) environment: String,
    /// How the answers came about.
    pub(crate) method: String,
    /// Training steps; `None` where they are not known.
    pub(crate) step: Option<usize>,
    /// The seeds of the runs.
    pub(crate) seeds: Vec<u64>,
    /// The names of their directories.
    pub(crate) runs: Vec<String>,
    /// Held-out tasks, of the run that played most of them, and episodes of each.
    pub(crate) tasks: usize,
    pub(crate) samples: usize,
    #[serde(rename = "return")]
    pub(crate) returns: Estimate,
    pub(crate) parts: IndexMap<String, Estimate>,
    pub(crate) pass_at: IndexMap<usize, Estimate>,
    /// Episodes that were left out or cut short, since a prompt did not fit.
    pub(crate) skipped_episodes: usize,
    pub(crate) cut_episodes: usize,
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
    /// What was played, and how.
    played: Recipe,
    /// How the team was trained, if it was.
    training: Option<Recipe>,
    /// The seed of the answers, where it is another than that of the training.
    other_seed: Option<u64>,
}

impl Setting {
    /// That of a run's team at its end.
    fn trained(run: &Run) -> Self {
        Self {
            step: Some(run.recipe.steps),
            protocol: Protocol::Parallel,
            played: without_training(&run.recipe),
            training: Some(without_seed(&run.recipe)),
            other_seed: None,
        }
    }

    fn of(run: &Run, evaluation: &Evaluation) -> Self {
        let training = match evaluation.step {
            Some(0) => None,
            Some(_) => Some(run.origin()),
            None => run.training.as_ref(),
        };
        Self {
            step: evaluation.step,
            protocol: evaluation.protocol,
            played: Recipe {
                // Where trained agents lie says nothing of them.
                team: run.origin().team.clone(),
                ..without_training(&run.recipe)
            },
            training: training.map(without_seed),
            other_seed: training
                .map(|_| run.recipe.seed)
                .filter(|seed| *seed != run.seed()),
        }
    }

    /// How the answers came about, in words.
    fn method(&self) -> String {
        let is_single = matches!(self.played.environment, EnvironmentKind::Solo(_));
        let protocol = match (is_single, self.protocol) {
            (true, _) => "single agent",
            (false, Protocol::Parallel) => "parallel",
            (false, Protocol::Pipeline) => "pipeline",
            (false, Protocol::Discussion) => "discussion",
        };
        let Some(training) = &self.training else {
            return match self.step {
                Some(_) => protocol.to_owned(),
                None => format!("given agents, {protocol}"),
            };
        };
        let trained_alone = matches!(training.environment, EnvironmentKind::Solo(_));
        let algorithm = match (trained_alone, training.algorithm.baseline) {
            (true, Baseline::GroupMean) => "GRPO",
            (false, Baseline::GroupMean) => "MAGRPO",
            (_, Baseline::LeaveOneOut) => "MARLOO",
            (_, Baseline::GroupMax) => "MAReMax",
            (_, Baseline::Zero) => "MAREINFORCE",
        };
        match (is_single, self.protocol) {
            (false, Protocol::Parallel) => algorithm.to_owned(),
            _ => format!("{algorithm}, {protocol}"),
        }
    }

    /// The settings in which others of the same name differ, as they stand in a recipe.
    fn distinction(&self, others: &[&Self]) -> String {
        let differing = |of: fn(&Self) -> Option<&Recipe>| {
            let settings = |own| of(own).map(Recipe::settings).unwrap_or_default();
            let others: Vec<IndexMap<String, String>> =
                others.iter().map(|other| settings(other)).collect();
            let differs = move |(path, value): &(String, String)| {
                others.iter().any(|other| other.get(path) != Some(value))
            };
            let named = |(path, value): (String, String)| {
                let key = path.rsplit('.').next().unwrap_or(&path);
                format!("{key}: {value}")
            };
            settings(self).into_iter().filter(differs).map(named)
        };
        let seed = self.other_seed.map(|seed| format!("seed: {seed}"));
        // What is played differently was trained differently too, and is said once.
        let all: IndexSet<String> = differing(|own| Some(&own.played))
            .chain(differing(|own| own.training.as_ref()))
            .chain(seed.filter(|_| {
                others
                    .iter()
                    .any(|other| other.other_seed != self.other_seed)
            }))
            .collect();
        all.into_iter().collect::<Vec<_>>().join(", ")
    }
}

/// What a run does but for its seed, where it runs, and how it is judged.
fn without_seed(recipe: &Recipe) -> Recipe {
    Recipe {
        seed: 0,
        checkpoints: Default::default(),
        devices: Default::default(),
        evaluation: Default::default(),
        ..recipe.clone()
    }
}

/// What tasks are played with, without what only training needs.
fn without_training(recipe: &Recipe) -> Recipe {
    let default = Algorithm::default();
    Recipe {
        // Any one.
        train: Source::Embedded(EmbeddedSet::TldrTrain),
        algorithm: Algorithm {
            discount: recipe.algorithm.discount,
            ..default
        },
        updates: Default::default(),
        fine_tuning: Default::default(),
        steps: 1,
        tasks_per_step: 1,
        evaluation: crate::recipe::Evaluation {
            every: None,
            ..recipe.evaluation.clone()
        },
        ..without_seed(recipe)
    }
}

/// What was played, in words: the environment with its turns and data.
fn stage(recipe: &Recipe) -> String {
    let turns = match recipe.environment.horizon().get() {
        1 => String::new(),
        turns => format!(", {turns} turns"),
    };
    format!(
        "{}{turns}, {}",
        recipe.environment.team_name(),
        recipe.held_out.label()
    )
}

/// The first and last evaluations of all runs; those that differ in their seeds alone in one row. Rows of
/// one environment follow one another, those without training first.
///
/// # Errors
/// If a run has not been evaluated yet.
pub(crate) fn compare<'a>(runs: impl IntoIterator<Item = &'a Run>) -> Result<Vec<Row>> {
    let mut groups: Vec<Judged<'_>> = Vec::new();
    for run in runs {
        ensure!(
            !run.evaluations.is_empty(),
            "{} has no evaluation yet: wait until its first one is done",
            run.path.display()
        );
        for evaluation in run.ends().into_iter().flatten() {
            let setting = Setting::of(run, evaluation);
            match groups.iter_mut().find(|(own, _)| *own == setting) {
                None => groups.push((setting, vec![(run, evaluation)])),
                Some((_, group)) => match group
                    .iter()
                    .find(|own| seed(own) == seed(&(run, evaluation)))
                {
                    None => group.push((run, evaluation)),
                    // The same team with the same seed.
                    Some((other, same)) if same.episodes == evaluation.episodes => log::info!(
                        "{} says the same of `{}` as {}, and is left out of its row",
                        run.path.display(),
                        Setting::of(run, evaluation).method(),
                        other.path.display()
                    ),
                    Some((other, _)) => bail!(
                        "{} and {} have the same recipe and seed, but other results, as of other devices \
                         or of programs that ran out of time: leave one of them out",
                        other.path.display(),
                        run.path.display()
                    ),
                },
            }
        }
    }
    check_parts(&groups)?;
    let mut rows: Vec<Row> = groups
        .iter()
        .map(|(setting, group)| row(setting, group))
        .collect();
    for (index, (setting, _)) in groups.iter().enumerate() {
        let name = |(own, _): &Judged<'_>| {
            let judged = own.played.evaluation.clone();
            (stage(&own.played), own.method(), own.step, judged)
        };
        let alike = groups
            .iter()
            .filter(|other| name(other) == name(&groups[index]));
        let others: Vec<&Setting> = alike
            .map(|(other, _)| other)
            .filter(|other| *other != setting)
            .collect();
        match setting.distinction(&others).as_str() {
            "" => {}
            distinction => rows[index].method += &format!(" ({distinction})"),
        }
    }
    rows.sort_by_cached_key(|row| (row.environment.clone(), row.step != Some(0), row.step));
    Ok(rows)
}

/// The seed of an evaluation: that of its team's making, or of its answers where nothing was learnt.
fn seed((run, evaluation): &(&Run, &Evaluation)) -> u64 {
    match evaluation.step {
        Some(0) => run.recipe.seed,
        _ => run.seed(),
    }
}

/// A setting and the evaluations that have it.
type Judged<'a> = (Setting, Vec<(&'a Run, &'a Evaluation)>);

/// Refuses evaluations on one stage whose rewards have other parts: those of another version.
fn check_parts(groups: &[Judged<'_>]) -> Result<()> {
    let mut firsts: IndexMap<String, (&Run, &Evaluation)> = IndexMap::new();
    for (setting, group) in groups {
        for &(run, judged) in group {
            let (other, known) = *firsts
                .entry(stage(&setting.played))
                .or_insert((run, judged));
            let names = || known.parts.keys();
            let has_all = |played: &Played| names().all(|part| played.parts.contains_key(part));
            ensure!(
                judged.parts.keys().eq(names()) && judged.episodes.iter().all(has_all),
                "{} and {} have other parts of the reward: they are of two versions of polyphony. \
                 Evaluate one of them again, or leave it out",
                other.path.display(),
                run.path.display()
            );
        }
    }
    Ok(())
}

fn row(setting: &Setting, group: &[(&Run, &Evaluation)]) -> Row {
    let (_, first) = group[0];
    let figure = |of: &dyn Fn(&Played) -> f64| {
        let runs = group.iter().map(|(_, evaluation)| evaluation.of_tasks(of));
        Estimate::of_runs(&runs.collect::<Vec<_>>())
    };
    let part = |part: &String| (part.clone(), figure(&|played| played.parts[part]));
    let numbers: IndexSet<usize> = group
        .iter()
        .flat_map(|(_, evaluation)| evaluation.pass_at.keys().copied())
        .collect();
    // Nothing of a number of episodes that some run has of no task.
    let rate = |k: usize| {
        let runs = group
            .iter()
            .map(|(_, evaluation)| evaluation.pass_by_task(k));
        let runs: Vec<ByTask<'_>> = runs.collect();
        let is_whole = runs.iter().all(|run| !run.is_empty());
        is_whole.then(|| (k, Estimate::of_runs(&runs)))
    };
    let tasks = group.iter().map(|(_, evaluation)| evaluation.tasks);
    let mean_of = |of: &dyn Fn(&Evaluation) -> f64| {
        // Episodes that were left out have cost something too.
        let per_episode = |evaluation: &Evaluation| {
            of(evaluation) / (evaluation.episodes.len() + evaluation.skipped_episodes) as f64
        };
        mean(
            &group
                .iter()
                .map(|(_, evaluation)| per_episode(evaluation))
                .collect::<Vec<_>>(),
        )
    };
    Row {
        environment: stage(&setting.played),
        method: setting.method(),
        step: setting.step,
        seeds: group.iter().map(seed).collect(),
        runs: group.iter().map(|(run, _)| run.name()).collect(),
        tasks: tasks.max().unwrap_or(0),
        samples: first.samples,
        returns: figure(&|played| played.value),
        parts: first.parts.keys().map(part).collect(),
        pass_at: numbers.into_iter().filter_map(rate).collect(),
        skipped_episodes: group
            .iter()
            .map(|(_, evaluation)| evaluation.skipped_episodes)
            .sum(),
        cut_episodes: group
            .iter()
            .map(|(_, evaluation)| evaluation.cut_episodes)
            .sum(),
        sampled_tokens: mean_of(&|evaluation| evaluation.sampled_tokens as f64),
        read_tokens: mean_of(&|evaluation| evaluation.read_tokens as f64),
        secs: mean_of(&|evaluation| evaluation.timing.secs),
    }
}

#[cfg(test)]
mod tests;
