//! How ranks are arranged: parts of the team, and replicas of each part.

use thiserror::Error;

/// The arrangement of ranks. Rank `replica · parts + part` holds one part of the agents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    /// The number of parts into which the agents are divided, in their order.
    pub parts: usize,
    /// The number of ranks that hold the same part. They share the part's work.
    pub replicas: usize,
}

impl Grid {
    /// The arrangement of this many ranks for a team. Without `replicas`, agents are spread as far as possible:
    /// one agent per rank, and several replicas if there are more ranks than agents.
    ///
    /// # Errors
    /// If the ranks cannot hold the same number of agents each, or not every part can have the same number of
    /// replicas.
    pub fn new(ranks: usize, agents: usize, replicas: Option<usize>) -> Result<Self, GridError> {
        let error = || GridError {
            ranks,
            agents,
            replicas,
        };
        let parts = match replicas {
            Some(replicas) => ranks
                .checked_div(replicas)
                .filter(|parts| parts * replicas == ranks),
            None => Some(ranks.min(agents)),
        };
        let parts = parts.filter(|&parts| parts > 0 && agents.is_multiple_of(parts));
        let parts = parts.filter(|&parts| ranks.is_multiple_of(parts));
        let parts = parts.ok_or_else(error)?;
        Ok(Self {
            parts,
            replicas: ranks / parts,
        })
    }

    /// The number of ranks.
    pub fn ranks(self) -> usize {
        self.parts * self.replicas
    }

    /// The part that a rank holds.
    pub fn part_of(self, rank: usize) -> usize {
        rank % self.parts
    }
}

/// A number of ranks that cannot train a team.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{}", self.message())]
pub struct GridError {
    /// The number of ranks.
    pub ranks: usize,
    /// The number of agents.
    pub agents: usize,
    /// The number of replicas that was asked for.
    pub replicas: Option<usize>,
}

impl GridError {
    fn message(&self) -> String {
        let Self {
            ranks,
            agents,
            replicas,
        } = *self;
        let divisors = (1..=agents).filter(|parts| agents.is_multiple_of(*parts));
        let list = |numbers: Vec<usize>| {
            let numbers: Vec<String> = numbers.iter().map(usize::to_string).collect();
            numbers.join(", ")
        };
        match replicas {
            Some(0) => "there must be at least one replica".to_owned(),
            Some(replicas) => format!(
                "{ranks} ranks cannot be {replicas} replicas of {agents} agents: each replica needs equally many \
                 ranks, and each of its ranks equally many agents. Start {} ranks, or ask for another number of \
                 replicas",
                list(divisors.map(|parts| parts * replicas).collect())
            ),
            None => format!(
                "{ranks} ranks cannot hold {agents} agents: start {} ranks, or a multiple of {agents}, which makes \
                 replicas; or ask for {ranks} replicas, each of which holds all agents",
                list(divisors.collect())
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid(ranks: usize, agents: usize, replicas: Option<usize>) -> Option<(usize, usize)> {
        let grid = Grid::new(ranks, agents, replicas).ok()?;
        Some((grid.parts, grid.replicas))
    }

    #[test]
    fn agents_are_spread_before_they_are_replicated() {
        for (ranks, agents, replicas, expected) in [
            (1, 2, None, Some((1, 1))),
            (2, 2, None, Some((2, 1))),
            (4, 2, None, Some((2, 2))),
            (2, 4, None, Some((2, 1))),
            (3, 1, None, Some((1, 3))),
            (2, 2, Some(2), Some((1, 2))),
            (6, 2, Some(3), Some((2, 3))),
            (3, 2, Some(3), Some((1, 3))),
            (3, 2, None, None),
            (3, 4, None, None),
            (4, 2, Some(3), None),
            (8, 2, Some(2), None),
            (2, 2, Some(0), None),
            (0, 2, None, None),
        ] {
            let given = (ranks, agents, replicas);
            assert_eq!(grid(ranks, agents, replicas), expected, "{given:?}");
        }
    }

    #[test]
    fn an_error_lists_numbers_of_ranks_that_work() {
        for agents in 1..=6 {
            for ranks in 1..=13 {
                for replicas in [None, Some(1), Some(2), Some(3)] {
                    let Err(error) = Grid::new(ranks, agents, replicas) else {
                        continue;
                    };
                    let message = error.to_string();
                    let (_, rest) = message.split_once("tart ").unwrap();
                    let (list, _) = rest.split_once(" ranks").unwrap();
                    for ranks in list.split(", ") {
                        let ranks = ranks.parse().unwrap();
                        assert!(Grid::new(ranks, agents, replicas).is_ok(), "{message}");
                    }
                    // The other ways out that the message names.
                    if replicas.is_none() {
                        assert!(Grid::new(agents * 5, agents, None).is_ok());
                        assert!(Grid::new(ranks, agents, Some(ranks)).is_ok());
                    }
                }
            }
        }
    }
}
