//! Runs for the tests, in one place.

use std::path::Path;

use indexmap::IndexMap;

use crate::{
    evaluation::{EvaluationRecord, EpisodeRecord, RoleSummary, EvaluationTiming},
    info::{ProgramInfo, RunInfo},
    legacy,
    run::Run,
    settings::{settings, value},
};

/// A recipe as resolved recipes are laid out, of a team that writes.
pub(crate) const TLDR: &str = include_str!("fixture/tldr.ron");
/// The same of a team that writes programs.
pub(crate) const COOP: &str = include_str!("fixture/coop.ron");

/// The roles of all runs here.
const ROLES: [&str; 2] = ["summarizer", "elaborator"];

/// What a run of the recipe [`TLDR`] with this seed says of itself.
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

/// What is left in `runs/name` by a recipe with changes of the form `path=value`, of which nothing has run.
pub(crate) fn run(name: &str, recipe: &str, changes: &[&str]) -> Run {
    let mut own = settings(recipe);
    for change in changes {
        let (path, text) = change.split_once('=').unwrap();
        own.insert(path.to_owned(), value(text));
    }
    legacy::complete(&mut own);
    let roles = ROLES.map(str::to_owned);
    Run {
        path: Path::new("runs").join(name),
        info: legacy::derive(&own, roles.into()),
        recipe: recipe.to_owned(),
        settings: own,
        ..Run::default()
    }
}

/// An evaluation of one-turn episodes with these returns, in which both agents of a pair said a text.
/// Half of each return is its part `style`.
pub(crate) fn evaluation(episodes: &[(f64, &str)]) -> EvaluationRecord {
    let played = |(index, (value, text)): (usize, &(f64, &str))| EpisodeRecord {
        task: format!("t{index}"),
        value: *value,
        parts: IndexMap::from([("style".to_owned(), value / 2.0)]),
        turns: vec![vec![(*text).to_owned(); 2]],
        ..EpisodeRecord::default()
    };
    let said = || RoleSummary {
        completion_length: 4.0,
        truncated_fraction: 0.5,
        ..RoleSummary::default()
    };
    EvaluationRecord {
        step: Some(0),
        roles: ROLES.map(|role| (role.to_owned(), said())).into(),
        completion_tokens: 8 * episodes.len(),
        prompt_tokens: 20 * episodes.len(),
        timing: EvaluationTiming {
            secs: 2.0,
            tokens_per_sec: 4.0,
            ..EvaluationTiming::default()
        },
        episodes: episodes.iter().enumerate().map(played).collect(),
        ..EvaluationRecord::default()
    }
    .summarized(["style"])
}
