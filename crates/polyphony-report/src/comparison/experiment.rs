//! The settings behind an evaluation, and whether two evaluations differ only in their seeds.
//!
//! This module knows the names of a recipe's sections, but no environment and no algorithm. Every setting
//! counts, except those that the sections below exclude and those that the run itself lists as operational.

use std::collections::HashSet;

use indexmap::IndexSet;

use crate::{
    evaluation::{EvaluationRecord, PARALLEL},
    info::RunInfo,
    run::Run,
    settings::{FlatSettings, is_below},
};

/// Sections that are not part of the experiment: its seed, its checkpoints, where it runs, and how it is
/// evaluated.
const EXCLUDED: [&str; 4] = ["seed", "checkpoints", "devices", "evaluation"];

/// Sections that affect training only.
const TRAINING: [&str; 6] = [
    "train",
    "algorithm",
    "updates",
    "fine_tuning",
    "steps",
    "tasks_per_step",
];

/// The section with the numbers of tasks and samples of an evaluation, which affect the episodes. The table
/// has a column for both numbers, so rows that differ in one of them need no further label.
const EVALUATION: &str = "evaluation";
/// The one key of that section that does not affect the episodes.
const EVALUATION_INTERVAL: &str = "evaluation.every";

/// The discount changes returns, even those of evaluations.
const DISCOUNT: &str = "algorithm.discount";

/// The models that the agents start from.
const TEAM: &str = "team";

/// What evaluations that differ only in their seeds have in common.
#[derive(Clone, Debug)]
pub(super) struct Experiment<'a> {
    pub(super) step: Option<usize>,
    protocol: &'a str,
    /// The settings that affect the episodes.
    episode_settings: FlatSettings,
    /// The settings of the training; `None` for an untrained team.
    training: Option<FlatSettings>,
    /// The seed of the answers, if it differs from the seed of the training.
    answer_seed: Option<u64>,
    /// The infos of the run that made the evaluation and of the run that trained the team.
    info: &'a RunInfo,
    training_info: &'a RunInfo,
}

impl<'a> Experiment<'a> {
    /// A run's team after its last step.
    pub(super) fn of_training(run: &'a Run) -> Self {
        Self {
            step: Some(run.info.steps),
            protocol: PARALLEL,
            episode_settings: episode_settings(&run.settings, &run.info),
            training: Some(without_seed(&run.settings)),
            answer_seed: None,
            info: &run.info,
            training_info: &run.info,
        }
    }

    pub(super) fn of(run: &'a Run, evaluation: &'a EvaluationRecord) -> Self {
        let (training_info, settings) = run.training_run();
        let is_trained = match evaluation.step {
            Some(steps) => steps > 0,
            None => run.training.is_some(),
        };
        let mut episode_settings = episode_settings(&run.settings, &run.info);
        // The recipe of an evaluation names the paths of trained agents. What counts is the models that their
        // training started from.
        if let Some(team) = settings.get(TEAM) {
            episode_settings.insert(TEAM.to_owned(), team.clone());
        }
        let has_another_seed = is_trained && run.info.seed != training_info.seed;
        Self {
            step: evaluation.step,
            protocol: &evaluation.protocol,
            episode_settings,
            training: is_trained.then(|| without_seed(settings)),
            answer_seed: has_another_seed.then_some(run.info.seed),
            info: &run.info,
            training_info,
        }
    }

    /// Whether this experiment and another differ only in their seeds.
    pub(super) fn differs_only_in_seed(&self, other: &Self) -> bool {
        let step_and_seed = |experiment: &Self| (experiment.step, experiment.answer_seed);
        let operational: HashSet<&str> = self
            .operational_keys()
            .chain(other.operational_keys())
            .collect();
        let without_operational = |settings: &FlatSettings| -> FlatSettings {
            let relevant = settings
                .iter()
                .filter(|(path, _)| !is_below_any(path, &operational));
            relevant
                .map(|(path, value)| (path.clone(), value.clone()))
                .collect()
        };
        let training = |experiment: &Self| experiment.training.as_ref().map(without_operational);
        step_and_seed(self) == step_and_seed(other)
            && self.protocol == other.protocol
            && without_operational(&self.episode_settings)
                == without_operational(&other.episode_settings)
            && training(self) == training(other)
    }

    /// The settings that do not affect the results, as listed by the run.
    fn operational_keys(&self) -> impl Iterator<Item = &'a str> {
        let infos = [self.info, self.training_info].into_iter();
        infos.flat_map(|info| info.operational_keys.iter().map(String::as_str))
    }

    /// Whether the rows of this experiment and another would look the same.
    pub(super) fn has_same_row_label(&self, other: &Self) -> bool {
        let evaluation_settings = |experiment: &Self| {
            let settings = experiment.episode_settings.clone().into_iter();
            let settings = settings.filter(|(path, _)| is_below(path, EVALUATION));
            settings.collect::<FlatSettings>()
        };
        self.step == other.step
            && self.method() == other.method()
            && self.environment_text() == other.environment_text()
            && evaluation_settings(self) == evaluation_settings(other)
    }

    /// A label for the environment, its number of turns and its data set.
    pub(super) fn environment_text(&self) -> String {
        let environment = &self.info.environment;
        let turns = match environment.horizon {
            0 | 1 => String::new(),
            turns => format!(", {turns} turns"),
        };
        format!(
            "{}{turns}, {}",
            environment.comparison_name, self.info.held_out
        )
    }

    /// A label for how the answers were produced.
    pub(super) fn method(&self) -> String {
        let is_single_agent = self.info.environment.is_single_agent;
        let protocol = match is_single_agent {
            true => "single agent",
            false => self.protocol,
        };
        match (&self.training, self.step) {
            (Some(_), _) => {
                let method = &self.training_info.algorithm.method;
                match (is_single_agent, self.protocol) {
                    (false, PARALLEL) => method.clone(),
                    _ => format!("{method}, {protocol}"),
                }
            }
            (None, Some(_)) => protocol.to_owned(),
            (None, None) => format!("given agents, {protocol}"),
        }
    }

    /// The settings that distinguish this experiment from others with the same label, as in a recipe.
    pub(super) fn differing_settings(&self, others: &[&Self]) -> String {
        let all = others.iter().copied().chain([self]);
        let operational: HashSet<&str> = all.flat_map(Self::operational_keys).collect();
        let differing = |settings_of: fn(&Self) -> Option<&FlatSettings>| {
            let settings = settings_of(self).into_iter().flatten();
            let others: Vec<Option<&FlatSettings>> =
                others.iter().map(|other| settings_of(other)).collect();
            let differs = move |(path, value): &(&String, &String)| {
                let differs_from = |other: &Option<&FlatSettings>| {
                    other.and_then(|other| other.get(*path)) != Some(*value)
                };
                others.iter().any(differs_from)
            };
            let is_relevant = |(path, _): &(&String, &String)| !is_below_any(path, &operational);
            let found: Vec<(&String, &String)> =
                settings.filter(is_relevant).filter(differs).collect();
            // A map is listed by its keys that differ, or as a whole if none does.
            let sections: HashSet<&str> = found
                .iter()
                .flat_map(|(path, _)| sections_of(path))
                .collect();
            let listed = found.iter().filter(|(path, value)| {
                let is_map = value.starts_with('{');
                !(is_map && sections.contains(path.as_str()))
            });
            let with_key = |(path, value): &(&String, &String)| {
                let key = path.rsplit('.').next().unwrap_or(path);
                format!("{key}: {value}")
            };
            listed.map(with_key).collect::<Vec<_>>()
        };
        let has_another_seed = others
            .iter()
            .any(|other| other.answer_seed != self.answer_seed);
        let seed = self.answer_seed.filter(|_| has_another_seed);
        // A setting that affects both training and episodes is listed once.
        let all: IndexSet<String> = differing(|experiment| Some(&experiment.episode_settings))
            .into_iter()
            .chain(differing(|experiment| experiment.training.as_ref()))
            .chain(seed.map(|seed| format!("seed: {seed}")))
            .collect();
        all.into_iter().collect::<Vec<_>>().join(", ")
    }
}

/// The sections that contain a path, without the path itself.
fn sections_of(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('.').map(|(end, _)| &path[..end])
}

/// Whether a path is [below](is_below) one of many sections. A file may list any number of sections, so they
/// are looked up instead of tried one by one.
fn is_below_any(path: &str, sections: &HashSet<&str>) -> bool {
    sections.contains(path) || sections_of(path).any(|section| sections.contains(section))
}

fn is_in(path: &str, sections: &[&str]) -> bool {
    sections.iter().any(|section| is_below(path, section))
}

/// The settings of a run without those of the [`EXCLUDED`] sections.
fn without_seed(settings: &FlatSettings) -> FlatSettings {
    let relevant = settings.iter().filter(|(path, _)| !is_in(path, &EXCLUDED));
    relevant
        .map(|(path, value)| (path.clone(), value.clone()))
        .collect()
}

/// The settings that affect the episodes.
fn episode_settings(settings: &FlatSettings, info: &RunInfo) -> FlatSettings {
    let is_relevant = |path: &str| match path {
        EVALUATION_INTERVAL => false,
        path => is_below(path, EVALUATION) || !is_in(path, &EXCLUDED) && !is_in(path, &TRAINING),
    };
    let relevant = settings.iter().filter(|(path, _)| is_relevant(path));
    let mut relevant: FlatSettings = relevant
        .map(|(path, value)| (path.clone(), value.clone()))
        .collect();
    // Stored under the key that most algorithms use, whatever this algorithm calls its discount.
    let discount = ron::ser::to_string(&info.algorithm.discount);
    relevant.insert(DISCOUNT.to_owned(), discount.unwrap_or_default());
    relevant
}
