//! Runs for the tests.

use std::path::Path;

use indexmap::IndexMap;

use crate::{
    evaluation::{EpisodeRecord, EvaluationRecord, EvaluationTiming, RoleSummary},
    info::{ProgramInfo, RunInfo},
    legacy,
    run::Run,
    settings::{settings, value},
};

/// A resolved recipe of a writing environment.
pub(crate) const TLDR: &str = include_str!("fixture/tldr.ron");
/// A resolved recipe of a coding environment.
pub(crate) const COOP: &str = include_str!("fixture/coop.ron");

/// The roles of all runs here.
const ROLES: [&str; 2] = ["summarizer", "elaborator"];

/// The info of a run of the recipe [`TLDR`] with this seed.
pub(crate) fn info(seed: u64) -> RunInfo {
    let roles = ROLES.map(str::to_owned);
    RunInfo {
        program: Some(ProgramInfo {
            name: "polyphony".to_owned(),
            version: "0.1.0".to_owned(),
        }),
        seed,
        ..legacy::derive(&settings(TLDR), roles.into())
    }
}

/// A run in `runs/name` without any steps. `changes` of the form `path=value` apply to its recipe.
pub(crate) fn run(name: &str, recipe: &str, changes: &[&str]) -> Run {
    let mut run_settings = settings(recipe);
    for change in changes {
        let (path, text) = change.split_once('=').unwrap();
        run_settings.insert(path.to_owned(), value(text));
    }
    legacy::complete(&mut run_settings);
    let roles = ROLES.map(str::to_owned);
    Run {
        path: Path::new("runs").join(name),
        info: legacy::derive(&run_settings, roles.into()),
        recipe: recipe.to_owned(),
        settings: run_settings,
        ..Run::default()
    }
}

/// An evaluation of one-turn episodes with these returns. In each, both agents gave the same response.
/// Half of each return is its part `style`.
pub(crate) fn evaluation(episodes: &[(f64, &str)]) -> EvaluationRecord {
    let episode = |(index, (value, text)): (usize, &(f64, &str))| EpisodeRecord {
        task: format!("t{index}"),
        episode_return: *value,
        parts: IndexMap::from([("style".to_owned(), value / 2.0)]),
        turns: vec![vec![(*text).to_owned(); 2]],
        ..EpisodeRecord::default()
    };
    let summary = || RoleSummary {
        completion_length: 4.0,
        truncated_fraction: 0.5,
        ..RoleSummary::default()
    };
    EvaluationRecord {
        step: Some(0),
        roles: ROLES.map(|role| (role.to_owned(), summary())).into(),
        completion_tokens: 8 * episodes.len(),
        prompt_tokens: 20 * episodes.len(),
        timing: EvaluationTiming {
            secs: 2.0,
            tokens_per_sec: 4.0,
            ..EvaluationTiming::default()
        },
        episodes: episodes.iter().enumerate().map(episode).collect(),
        ..EvaluationRecord::default()
    }
    .summarized(["style"])
}
