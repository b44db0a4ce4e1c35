//! Updates of a whole team: one agent after the other, or all at once.

use Order::{AtOnce, InTurn};
use rayon::prelude::*;

use crate::{MarlError, agent::Agent, algorithm::Progress};

/// In which order agents are updated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    /// One after the other.
    InTurn,
    /// All together.
    AtOnce,
}

impl Order {
    /// At once where there are several agents and no two of them share a device.
    fn of(agents: &[Agent]) -> Self {
        let devices: Vec<_> = agents.iter().map(|agent| agent.model.device()).collect();
        let shares = |(index, device)| devices[..index].contains(device);
        match agents.len() == 1 || devices.iter().enumerate().any(shares) {
            true => InTurn,
            false => AtOnce,
        }
    }
}

/// Updates each agent with what it learns with: one after the other, or all at once where no two share a
/// device. `update` is given an agent's index too.
///
/// # Errors
/// Those of `update`.
pub fn update_each<L: Send, R: Send>(
    agents: &mut [Agent],
    learners: &mut [L],
    on_progress: &mut dyn FnMut(Progress),
    update: impl Fn(usize, &mut Agent, &mut L) -> Result<R, MarlError> + Sync,
) -> Result<Vec<R>, MarlError> {
    if Order::of(agents) == InTurn {
        let in_turn = agents.iter_mut().zip(learners).enumerate();
        let in_turn = in_turn.map(|(index, (agent, learner))| {
            on_progress(Progress::Updating(index));
            update(index, agent, learner)
        });
        return in_turn.collect();
    }
    (0..agents.len()).for_each(|index| on_progress(Progress::Updating(index)));
    // On rayon's own threads: one of them may be the caller, and if it waited for others that it does not
    // work for, they would wait for it where there is no other.
    let at_once = agents.par_iter_mut().zip(learners.par_iter_mut());
    at_once
        .enumerate()
        .map(|(index, (agent, learner))| update(index, agent, learner))
        .collect()
}
