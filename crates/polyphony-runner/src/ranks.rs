//! How the ranks of a run start together and stay in step.

use std::{
    hash::{DefaultHasher, Hasher as _},
    sync::Arc,
};

use anyhow::{Context as _, Result, anyhow, bail};
use polyphony_marl::{Agent, Communicator, Grid, MarlError, Message, RankGroup, Ranks, Team};
use polyphony_report::RanksInfo;
use serde::{Serialize, de::DeserializeOwned};

use crate::recipe::{Parallel, Recipe};

/// Makes all ranks return an error if one of them has one. The outcome must be one of this rank alone, and not one on
/// which the ranks have agreed already.
///
/// # Errors
/// That of this rank, or else the first one of the others.
pub(crate) fn agree<T>(ranks: &RankGroup, outcome: Result<T>) -> Result<T> {
    let shared = match &outcome {
        Ok(_) => Ok(()),
        Err(error) => Err(MarlError::algorithm(format!("{error:#}"))),
    };
    let others = ranks.agree(shared);
    let value = outcome?;
    others?;
    Ok(value)
}

/// Whether any rank passes `true`.
///
/// # Errors
/// If a rank cannot be reached.
pub(crate) fn any(ranks: &RankGroup, here: bool) -> Result<bool> {
    Ok(ranks.exchange(Message::Records, Ok(here))?.contains(&true))
}

/// Does some work on rank 0. Returns its result there, and `None` on the other ranks.
///
/// # Errors
/// If the work fails; then on all ranks.
pub(crate) fn on_first<T>(
    ranks: &RankGroup,
    work: impl FnOnce() -> Result<T>,
) -> Result<Option<T>> {
    agree(ranks, (ranks.rank() == 0).then(work).transpose())
}

/// Does some work on rank 0, and sends its result to all ranks.
///
/// # Errors
/// If the work fails; then on all ranks.
pub(crate) fn from_first<T: Serialize + DeserializeOwned>(
    ranks: &RankGroup,
    work: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let result = on_first(ranks, work)?;
    let mut results = ranks.exchange(Message::Records, Ok(result))?.into_iter();
    results.next().flatten().context("rank 0 sends its result")
}

/// Refuses ranks on which something differs from rank 0, such as their recipes: each rank reads its own files, and one
/// of them may be out of date. `what` names the thing in the plural.
///
/// # Errors
/// Names the ranks that differ.
pub(crate) fn check_same(
    ranks: &RankGroup,
    what: &str,
    value: impl FnOnce() -> String,
) -> Result<()> {
    if ranks.is_single() {
        return Ok(());
    }
    let all = ranks.exchange(Message::Records, Ok(value()))?;
    let differing = all
        .iter()
        .enumerate()
        .filter(|(_, other)| Some(*other) != all.first());
    let differing: Vec<String> = differing.map(|(rank, _)| rank.to_string()).collect();
    if differing.is_empty() {
        return Ok(());
    }
    bail!(
        "the ranks have different {what}: those of rank 0 and rank {} differ. Start all ranks with the same program, \
         arguments and files, for example from a shared file system",
        differing.join(", ")
    )
}

/// Refuses ranks that run another command, another version of the program, or another recipe than rank 0.
///
/// # Errors
/// Names the ranks that differ.
pub(crate) fn check_same_run(ranks: &RankGroup, command: &str, recipe: &Recipe) -> Result<()> {
    check_same(ranks, "commands", || command.to_owned())?;
    let version = || env!("CARGO_PKG_VERSION").to_owned();
    check_same(ranks, "versions of this program", version)?;
    check_same(ranks, "recipes", || recipe.to_ron())
}

/// Refuses replicas whose weights differ, since sums of their gradients would be wrong.
///
/// # Errors
/// Names the ranks and the agent.
pub(crate) fn check_replicas(team: &Team) -> Result<()> {
    let ranks = team.ranks();
    let differing = match ranks.replicas().is_single() {
        true => None,
        false => {
            let digests: Vec<(String, u64)> = team.iter().map(weights_digest).collect();
            let all = ranks.replicas().exchange(Message::Records, Ok(digests))?;
            let pairs = all.iter().flat_map(|other| other.iter().zip(&all[0]));
            let mut pairs = pairs.filter(|(other, first)| other != first);
            pairs.next().map(|((agent, _), _)| agent.clone())
        }
    };
    let outcome = match differing {
        None => Ok(()),
        Some(agent) => Err(anyhow!(
            "the replicas of agent `{agent}` have different weights: their model files or their kinds of processors \
             differ. Start all ranks with the same files, on machines of one kind"
        )),
    };
    agree(ranks.world(), outcome)
}

fn weights_digest(agent: &Agent) -> (String, u64) {
    let mut hasher = DefaultHasher::new();
    for (_, weight) in agent.model.named_weights() {
        hasher.write(weight.into_data().as_bytes());
    }
    (agent.name.clone(), hasher.finish())
}

/// A short text that is almost certainly different for different values.
pub(crate) fn digest(value: &impl std::fmt::Debug) -> String {
    let mut hasher = DefaultHasher::new();
    hasher.write(format!("{value:?}").as_bytes());
    format!("{:016x}", hasher.finish())
}

/// Arranges the ranks for a team.
///
/// # Errors
/// If that many ranks cannot hold the team, or a rank cannot be reached.
pub(crate) fn arrange(
    world: &Arc<dyn Communicator>,
    parallel: &Parallel,
    agents: usize,
) -> Result<Ranks> {
    let grid = Grid::new(world.size(), agents, parallel.replicas).map_err(|error| {
        anyhow!("{error} (the recipe's key `parallel.replicas` sets the number of replicas)")
    })?;
    world.warn_after(parallel.warn_after());
    let ranks = Ranks::new(Arc::clone(world), grid, parallel.gradients)?;
    Ok(ranks)
}

/// What a run records about its ranks; `None` if there is only one.
pub(crate) fn info(world: &dyn Communicator, ranks: &Ranks) -> Option<RanksInfo> {
    (world.size() > 1).then(|| RanksInfo {
        ranks: world.size(),
        parts: ranks.grid().parts,
        replicas: ranks.grid().replicas,
        library: world.library(),
    })
}
