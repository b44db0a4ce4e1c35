//! Updates of a whole team: one agent after the other, or all at once.

use UpdateOrder::{AtOnce, InTurn};
use rayon::prelude::*;

use crate::{MarlError, agent::Agent, algorithm::Progress};

/// In which order agents are updated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum UpdateOrder {
    /// One after the other.
    InTurn,
    /// All together.
    AtOnce,
}

impl UpdateOrder {
    /// At once if there are several agents, no two of them share a device, and none has replicas.
    fn of(agents: &[Agent]) -> Self {
        // Replicas meet in each update, so all ranks must update in the same order.
        if agents.iter().any(|agent| !agent.replicas.is_single()) {
            return InTurn;
        }
        let devices: Vec<_> = agents.iter().map(|agent| agent.model.device()).collect();
        let is_shared = |(index, device)| devices[..index].contains(device);
        match agents.len() == 1 || devices.iter().enumerate().any(is_shared) {
            true => InTurn,
            false => AtOnce,
        }
    }
}

/// Updates each agent with its learner: one after the other, or all at once if no two share a device.
/// `update` is given the agent's index, the agent and its learner.
///
/// # Errors
/// Those of `update`.
pub fn update_each<L: Send, R: Send>(
    agents: &mut [Agent],
    learners: &mut [L],
    on_progress: &mut dyn FnMut(Progress),
    update: impl Fn(usize, &mut Agent, &mut L) -> Result<R, MarlError> + Sync,
) -> Result<Vec<R>, MarlError> {
    update_in(
        UpdateOrder::of(agents),
        agents,
        learners,
        on_progress,
        update,
    )
}

fn update_in<L: Send, R: Send>(
    order: UpdateOrder,
    agents: &mut [Agent],
    learners: &mut [L],
    on_progress: &mut dyn FnMut(Progress),
    update: impl Fn(usize, &mut Agent, &mut L) -> Result<R, MarlError> + Sync,
) -> Result<Vec<R>, MarlError> {
    if order == InTurn {
        let in_turn = agents.iter_mut().zip(learners).enumerate();
        let in_turn = in_turn.map(|(index, (agent, learner))| {
            on_progress(Progress::Updating(index));
            update(index, agent, learner)
        });
        return in_turn.collect();
    }
    (0..agents.len()).for_each(|index| on_progress(Progress::Updating(index)));
    // This uses rayon's own threads, because the caller may be one of them: if it blocked until other
    // threads had done the work, a pool of one thread would wait forever.
    let at_once = agents.par_iter_mut().zip(learners.par_iter_mut());
    at_once
        .enumerate()
        .map(|(index, (agent, learner))| update(index, agent, learner))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::agent;

    #[test]
    fn at_once_or_in_turn_every_agent_is_updated_with_its_learner() {
        // One thread is enough for both.
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(1)
            .build()
            .unwrap();
        for order in [InTurn, AtOnce] {
            let mut agents = ["first", "second"].map(agent);
            let mut learners = [10, 20];
            let mut reported = Vec::new();
            let updates = pool.install(|| {
                update_in(
                    order,
                    &mut agents,
                    &mut learners,
                    &mut |progress| reported.push(progress),
                    |index, agent, learner| {
                        *learner += index;
                        Ok((agent.name.clone(), *learner))
                    },
                )
            });
            let expected = [("first".to_owned(), 10), ("second".to_owned(), 21)];
            assert_eq!(updates.unwrap(), expected);
            assert_eq!(learners, [10, 21]);
            assert_eq!(reported, [Progress::Updating(0), Progress::Updating(1)]);
        }
    }

    #[test]
    fn agents_that_share_a_device_take_turns_and_so_does_one_alone() {
        let agents = ["first", "second"].map(agent);
        assert_eq!(UpdateOrder::of(&agents), InTurn, "both are on the CPU");
        assert_eq!(UpdateOrder::of(&agents[..1]), InTurn);
    }

    #[test]
    fn an_error_is_passed_on() {
        for order in [InTurn, AtOnce] {
            let mut agents = ["first", "second"].map(agent);
            let fails = |index: usize, _: &mut Agent, _: &mut ()| match index {
                1 => Err(MarlError::NoAdvantage),
                _ => Ok(()),
            };
            let result = update_in(order, &mut agents, &mut [(), ()], &mut |_| (), fails);
            assert!(matches!(result, Err(MarlError::NoAdvantage)));
        }
    }
}
