//! What an evaluation was made with, and when two differ only in their seeds.
//!
//! Only the names of a recipe's sections are known here. Which settings count is the same for every environment
//! and algorithm: all of `environment` and those below, except what a run itself calls operational.

use std::collections::HashSet;

use indexmap::IndexSet;

use crate::{
    evaluation::{EvaluationRecord, PARALLEL},
    info::RunInfo,
    run::Run,
    settings::{FlatSettings, is_below},
};

/// Sections that do not change what a run does: its seed, where it runs, and how it is evaluated.
const OUTSIDE: [&str; 4] = ["seed", "checkpoints", "devices", "evaluation"];

/// Sections that only matter for training.
const TRAINING: [&str; 6] = [
    "train",
    "algorithm",
    "updates",
    "fine_tuning",
    "steps",
    "tasks_per_step",
];

/// How evaluations are made. The table has a column for it, and it is part of what was played.
const EVALUATION: &str = "evaluation";
const EVALUATION_INTERVAL: &str = "evaluation.every";

/// It changes returns, even those of evaluations.
const DISCOUNT: &str = "algorithm.discount";

/// Where the agents come from.
const TEAM: &str = "team";

/// What evaluations that differ only in their seeds have in common.
#[derive(Clone, Debug)]
pub(super) struct Setting<'a> {
    pub(super) step: Option<usize>,
    protocol: &'a str,
    /// What was played, and how.
    played: FlatSettings,
    /// How the team was trained, if it was.
    training: Option<FlatSettings>,
    /// The seed of the answers, if it differs from that of the training.
    other_seed: Option<u64>,
    /// The infos of the run that played and of the run that trained.
    info: &'a RunInfo,
    trained_by: &'a RunInfo,
}

impl<'a> Setting<'a> {
    /// The setting of a run's team at its end.
    pub(super) fn trained(run: &'a Run) -> Self {
        Self {
            step: Some(run.info.steps),
            protocol: PARALLEL,
            played: played(&run.settings, &run.info),
            training: Some(without_seed(&run.settings)),
            other_seed: None,
            info: &run.info,
            trained_by: &run.info,
        }
    }

    pub(super) fn of(run: &'a Run, evaluation: &'a EvaluationRecord) -> Self {
        let (origin, settings) = run.origin();
        let is_trained = match evaluation.step {
            Some(steps) => steps > 0,
            None => run.training.is_some(),
        };
        let mut played = played(&run.settings, &run.info);
        // The paths of trained agents do not matter.
        if let Some(team) = settings.get(TEAM) {
            played.insert(TEAM.to_owned(), team.clone());
        }
        Self {
            step: evaluation.step,
            protocol: &evaluation.protocol,
            played,
            training: is_trained.then(|| without_seed(settings)),
            other_seed: Some(run.info.seed).filter(|seed| is_trained && *seed != origin.seed),
            info: &run.info,
            trained_by: origin,
        }
    }

    /// Whether they differ only in their seeds.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let differing = |own: &Self| (own.step, own.other_seed);
        let operational: HashSet<&str> = self
            .operational_keys()
            .chain(other.operational_keys())
            .collect();
        let counting = |settings: &FlatSettings| -> FlatSettings {
            let own = settings
                .iter()
                .filter(|(path, _)| !is_below_any(path, &operational));
            own.map(|(path, value)| (path.clone(), value.clone()))
                .collect()
        };
        differing(self) == differing(other)
            && self.protocol == other.protocol
            && counting(&self.played) == counting(&other.played)
            && self.training.as_ref().map(counting) == other.training.as_ref().map(counting)
    }

    /// The settings that change nothing that is played, as far as the run says so.
    fn operational_keys(&self) -> impl Iterator<Item = &'a str> {
        let infos = [self.info, self.trained_by].into_iter();
        infos.flat_map(|info| info.operational_keys.iter().map(String::as_str))
    }

    /// Whether their rows look the same.
    pub(super) fn is_named_like(&self, other: &Self) -> bool {
        let of_column = |own: &Self| {
            let settings = own.played.clone().into_iter();
            let settings = settings.filter(|(path, _)| is_below(path, EVALUATION));
            settings.collect::<FlatSettings>()
        };
        self.step == other.step
            && self.method() == other.method()
            && self.stage() == other.stage()
            && of_column(self) == of_column(other)
    }

    /// What was played, in words: the environment with its turns and data.
    pub(super) fn stage(&self) -> String {
        let environment = &self.info.environment;
        let turns = match environment.horizon {
            0 | 1 => String::new(),
            turns => format!(", {turns} turns"),
        };
        format!("{}{turns}, {}", environment.team_name, self.info.held_out)
    }

    /// How the answers were produced, in words.
    pub(super) fn method(&self) -> String {
        let is_single_agent = self.info.environment.is_single_agent;
        let protocol = match is_single_agent {
            true => "single agent",
            false => self.protocol,
        };
        match (&self.training, self.step) {
            (Some(_), _) => {
                let method = &self.trained_by.algorithm.method;
                match (is_single_agent, self.protocol) {
                    (false, PARALLEL) => method.clone(),
                    _ => format!("{method}, {protocol}"),
                }
            }
            (None, Some(_)) => protocol.to_owned(),
            (None, None) => format!("given agents, {protocol}"),
        }
    }

    /// The settings in which others with the same name differ, as in a recipe.
    pub(super) fn distinction(&self, others: &[&Self]) -> String {
        let all = others.iter().copied().chain([self]);
        let operational: HashSet<&str> = all.flat_map(Self::operational_keys).collect();
        let differing = |of: fn(&Self) -> Option<&FlatSettings>| {
            let own = of(self).into_iter().flatten();
            let others: Vec<Option<&FlatSettings>> = others.iter().map(|other| of(other)).collect();
            let differs = move |(path, value): &(&String, &String)| {
                let at = |other: &Option<&FlatSettings>| {
                    other.and_then(|other| other.get(*path)) != Some(*value)
                };
                others.iter().any(at)
            };
            let counts = |(path, _): &(&String, &String)| !is_below_any(path, &operational);
            let found: Vec<(&String, &String)> = own.filter(counts).filter(differs).collect();
            // A map is listed by its keys that differ, or as a whole if none does.
            let sections: HashSet<&str> = found.iter().flat_map(|(path, _)| above(path)).collect();
            let listed = found.iter().filter(|(path, value)| {
                let is_map = value.starts_with('{');
                !(is_map && sections.contains(path.as_str()))
            });
            let named = |(path, value): &(&String, &String)| {
                let key = path.rsplit('.').next().unwrap_or(path);
                format!("{key}: {value}")
            };
            listed.map(named).collect::<Vec<_>>()
        };
        let other_seeds = others
            .iter()
            .any(|other| other.other_seed != self.other_seed);
        let seed = self.other_seed.filter(|_| other_seeds);
        // A setting that changes both training and play is listed once.
        let all: IndexSet<String> = differing(|own| Some(&own.played))
            .into_iter()
            .chain(differing(|own| own.training.as_ref()))
            .chain(seed.map(|seed| format!("seed: {seed}")))
            .collect();
        all.into_iter().collect::<Vec<_>>().join(", ")
    }
}

/// The sections that a path lies in, without itself.
fn above(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('.').map(|(end, _)| &path[..end])
}

/// The same as [`is_below`] for one of many sections, which come from a file.
fn is_below_any(path: &str, sections: &HashSet<&str>) -> bool {
    sections.contains(path) || above(path).any(|section| sections.contains(section))
}

fn is_in(path: &str, sections: &[&str]) -> bool {
    sections.iter().any(|section| is_below(path, section))
}

/// The settings of a run without its seed, where it runs, and how it is evaluated.
fn without_seed(settings: &FlatSettings) -> FlatSettings {
    let own = settings.iter().filter(|(path, _)| !is_in(path, &OUTSIDE));
    own.map(|(path, value)| (path.clone(), value.clone()))
        .collect()
}

/// The settings that matter for playing.
fn played(settings: &FlatSettings, info: &RunInfo) -> FlatSettings {
    let counts = |path: &str| match path {
        EVALUATION_INTERVAL => false,
        path => is_below(path, EVALUATION) || !is_in(path, &OUTSIDE) && !is_in(path, &TRAINING),
    };
    let own = settings.iter().filter(|(path, _)| counts(path));
    let mut played: FlatSettings = own
        .map(|(path, value)| (path.clone(), value.clone()))
        .collect();
    // Under the name that most algorithms use, whatever this one calls it.
    let discount = ron::ser::to_string(&info.algorithm.discount);
    played.insert(DISCOUNT.to_owned(), discount.unwrap_or_default());
    played
}
