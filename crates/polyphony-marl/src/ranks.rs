//! How the processes that train one team share its agents and their work.
//!
//! Ranks form a [`Grid`]: the agents are divided into parts, and each part is held by one rank per replica. All
//! ranks play the same tasks in step with one another. Between parts travel responses, rewards and metrics; the
//! replicas of one part also exchange what they have sampled and scored, and sum up their gradients.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use serde::{Serialize, de::DeserializeOwned};
use thiserror::Error;

use crate::{
    MarlError,
    communicator::{CommunicationError, Communicator, SingleRank},
};

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

/// What ranks send to one another. Bytes are counted by kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Message {
    /// Responses and whether the next prompts fit, from every part to all ranks.
    Responses,
    /// Rewards and observations, from the rank that scored a joint action to all ranks.
    Outcomes,
    /// Responses with their log-probabilities, and scores, between the replicas of a part.
    Samples,
    /// Gradients, between the replicas of a part.
    Gradients,
    /// Metrics, records and what keeps ranks in step.
    Records,
}

impl Message {
    /// All kinds.
    pub const ALL: [Self; 5] = [
        Self::Responses,
        Self::Outcomes,
        Self::Samples,
        Self::Gradients,
        Self::Records,
    ];

    /// What the metric about its bytes means.
    pub(crate) fn meaning(self) -> &'static str {
        match self {
            Self::Responses => "Bytes of responses that all ranks have sent",
            Self::Outcomes => "Bytes of rewards and observations that all ranks have sent",
            Self::Samples => "Bytes of samples and scores that replicas have sent",
            Self::Gradients => "Bytes of gradients that replicas have sent",
            Self::Records => "Bytes of metrics and records that all ranks have sent",
        }
    }

    /// Its name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Responses => "responses",
            Self::Outcomes => "outcomes",
            Self::Samples => "samples",
            Self::Gradients => "gradients",
            Self::Records => "records",
        }
    }
}

/// What this rank has sent so far, and how long it has waited for others.
#[derive(Debug, Default)]
struct Traffic {
    bytes: [AtomicU64; Message::ALL.len()],
    nanos: AtomicU64,
}

/// A total of traffic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct TrafficTotal {
    /// Bytes that this rank has sent, by kind in the order of [`Message::ALL`].
    pub bytes: [u64; Message::ALL.len()],
    /// The time that this rank has spent in communication, which includes waiting for other ranks.
    pub time: Duration,
}

impl TrafficTotal {
    /// The traffic since an earlier total.
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            bytes: std::array::from_fn(|kind| self.bytes[kind] - earlier.bytes[kind]),
            time: self.time.saturating_sub(earlier.time),
        }
    }
}

/// Some ranks that exchange values.
#[derive(Clone, Debug)]
pub struct RankGroup {
    communicator: Arc<dyn Communicator>,
    /// The numbers of the ranks among all ranks, which messages to users name.
    world_ranks: Vec<usize>,
    traffic: Arc<Traffic>,
}

impl Default for RankGroup {
    fn default() -> Self {
        Self::of(Arc::new(SingleRank))
    }
}

impl RankGroup {
    /// All ranks of a communicator.
    pub fn of(communicator: Arc<dyn Communicator>) -> Self {
        let world_ranks = (0..communicator.size()).collect();
        Self::new(communicator, world_ranks, Arc::default())
    }

    fn new(
        communicator: Arc<dyn Communicator>,
        world_ranks: Vec<usize>,
        traffic: Arc<Traffic>,
    ) -> Self {
        Self {
            communicator,
            world_ranks,
            traffic,
        }
    }

    /// The index of this rank in the group.
    pub fn rank(&self) -> usize {
        self.communicator.rank()
    }

    /// The number of ranks in the group.
    pub fn size(&self) -> usize {
        self.communicator.size()
    }

    /// Whether this rank is alone, so that there is nothing to exchange.
    pub fn is_single(&self) -> bool {
        self.size() == 1
    }

    /// The share of this rank if this many items are dealt to all ranks: a range, in the order of the ranks.
    pub fn share(&self, items: usize) -> Range<usize> {
        let first = |rank| items * rank / self.size();
        first(self.rank())..first(self.rank() + 1)
    }

    /// Sends a value to all ranks, and returns the values of all, in the order of the ranks. If a rank passes an
    /// error, all of them return one.
    ///
    /// # Errors
    /// The error that was passed here, or else [`MarlError::OtherRank`] for the first rank that passed one; and if a rank
    /// cannot be reached.
    pub fn exchange<T: Serialize + DeserializeOwned>(
        &self,
        kind: Message,
        value: Result<T, MarlError>,
    ) -> Result<Vec<T>, MarlError> {
        if self.is_single() {
            return Ok(vec![value?]);
        }
        let bytes = self.encode(kind, &value, self.size() - 1);
        let messages = self.timed(|| self.communicator.gather(&bytes))?;
        decode_all(value, &messages)
    }

    /// Sends a value to rank 0, which gets the values of all, in the order of the ranks; the others get an empty
    /// list.
    ///
    /// # Errors
    /// If a rank cannot be reached.
    pub fn collect<T: Serialize + DeserializeOwned>(
        &self,
        kind: Message,
        value: T,
    ) -> Result<Vec<T>, MarlError> {
        if self.is_single() {
            return Ok(vec![value]);
        }
        let value = Ok(value);
        let bytes = self.encode(kind, &value, usize::from(self.rank() > 0));
        let messages = self.timed(|| self.communicator.gather_to_first(&bytes))?;
        decode_all(value, &messages)
    }

    /// Makes all ranks return an error if one of them has one, so that they stay in step. The outcome must not
    /// be that of an operation in which ranks have agreed already.
    ///
    /// # Errors
    /// As [`RankGroup::exchange`].
    pub fn agree<T>(&self, outcome: Result<T, MarlError>) -> Result<T, MarlError> {
        let (value, outcome) = match outcome {
            Ok(value) => (Some(value), Ok(())),
            Err(error) => (None, Err(error)),
        };
        self.exchange(Message::Records, outcome)?;
        Ok(value.expect("`exchange` returns the error of an outcome without a value"))
    }

    /// Does some work for each of this many items. The items are dealt to the ranks; every rank gets all results, in
    /// the order of the items.
    ///
    /// # Errors
    /// As [`RankGroup::exchange`].
    pub fn deal<T: Serialize + DeserializeOwned>(
        &self,
        kind: Message,
        items: usize,
        work: impl FnMut(usize) -> Result<T, MarlError>,
    ) -> Result<Vec<T>, MarlError> {
        let results = self.share(items).map(work).collect();
        let by_rank: Vec<Vec<T>> = self.exchange(kind, results)?;
        Ok(by_rank.into_iter().flatten().collect())
    }

    /// Sums up numbers over all ranks, always in the same order.
    ///
    /// # Errors
    /// If a rank cannot be reached.
    pub fn sum(&self, numbers: &mut [f32]) -> Result<(), MarlError> {
        if self.is_single() {
            return Ok(());
        }
        // Each rank sends every other one its share of the numbers, and later the share that it has summed up.
        let others = self.size() - 1;
        let bytes = 2 * size_of_val(numbers) as u64 * others as u64 / self.size() as u64;
        self.count(Message::Gradients, bytes);
        Ok(self.timed(|| self.communicator.sum(numbers))?)
    }

    /// The message that carries a value or an error. A value that cannot be encoded becomes an error, so that the ranks
    /// stay in step.
    fn encode<T: Serialize>(
        &self,
        kind: Message,
        value: &Result<T, MarlError>,
        receivers: usize,
    ) -> Vec<u8> {
        let value = value.as_ref().map_err(|error| match error {
            // Another group has passed it on to this rank.
            MarlError::OtherRank { rank, message } => (*rank, message.clone()),
            error => (self.world_ranks[self.rank()], error.with_sources()),
        });
        let bytes = rmp_serde::to_vec_named(&value).unwrap_or_else(|error| {
            let failure = (self.world_ranks[self.rank()], error.to_string());
            rmp_serde::to_vec_named(&Err::<(), _>(failure)).unwrap_or_default()
        });
        self.count(kind, (bytes.len() * receivers) as u64);
        bytes
    }

    fn count(&self, kind: Message, bytes: u64) {
        self.traffic.bytes[kind as usize].fetch_add(bytes, Ordering::Relaxed);
    }

    fn timed<T>(&self, communicate: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let result = communicate();
        let nanos = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.traffic.nanos.fetch_add(nanos, Ordering::Relaxed);
        result
    }
}

fn decode_all<T: DeserializeOwned>(
    value: Result<T, MarlError>,
    messages: &[Vec<u8>],
) -> Result<Vec<T>, MarlError> {
    value?;
    let decoded = messages.iter().map(|message| {
        let value: Result<T, (usize, String)> =
            rmp_serde::from_slice(message).map_err(MarlError::message)?;
        value.map_err(|(rank, message)| MarlError::OtherRank { rank, message })
    });
    decoded.collect()
}

/// The place of this process among the ranks that train one team.
#[derive(Clone, Debug)]
pub struct Ranks {
    grid: Grid,
    world: RankGroup,
    replicas: RankGroup,
}

impl Default for Ranks {
    /// A process that trains a team alone.
    fn default() -> Self {
        Self {
            grid: Grid {
                parts: 1,
                replicas: 1,
            },
            world: RankGroup::default(),
            replicas: RankGroup::default(),
        }
    }
}

impl Ranks {
    /// Arranges ranks in a grid that has as many ranks as the communicator.
    ///
    /// # Errors
    /// If a rank cannot be reached.
    ///
    /// # Panics
    /// If the grid has another number of ranks.
    pub fn new(world: Arc<dyn Communicator>, grid: Grid) -> Result<Self, CommunicationError> {
        assert_eq!(
            world.size(),
            grid.ranks(),
            "a grid has a place for each rank"
        );
        let traffic = Arc::<Traffic>::default();
        let part = grid.part_of(world.rank());
        let replicas = world.split(part)?;
        let members = (0..grid.replicas).map(|replica| replica * grid.parts + part);
        let all = (0..grid.ranks()).collect();
        Ok(Self {
            grid,
            world: RankGroup::new(world, all, Arc::clone(&traffic)),
            replicas: RankGroup::new(replicas, members.collect(), traffic),
        })
    }

    /// The arrangement of the ranks.
    pub fn grid(&self) -> Grid {
        self.grid
    }

    /// All ranks.
    pub fn world(&self) -> &RankGroup {
        &self.world
    }

    /// The ranks that hold the same agents as this one.
    pub fn replicas(&self) -> &RankGroup {
        &self.replicas
    }

    /// Whether this is the rank that writes records.
    pub fn is_first(&self) -> bool {
        self.world.rank() == 0
    }

    /// The agents of a team that this rank holds, by their index in the team.
    pub fn agents(&self, team_size: usize) -> Range<usize> {
        self.agents_of(self.grid.part_of(self.world.rank()), team_size)
    }

    /// The agents of a part of the team.
    pub fn agents_of(&self, part: usize, team_size: usize) -> Range<usize> {
        let first = |part| team_size * part / self.grid.parts;
        first(part)..first(part + 1)
    }

    /// What each part contributes, in the order of the parts: all ranks pass the value of their part, and the first
    /// replica of each part sends it.
    ///
    /// # Errors
    /// As [`RankGroup::exchange`].
    pub fn exchange_parts<T: Serialize + DeserializeOwned>(
        &self,
        kind: Message,
        value: Result<T, MarlError>,
    ) -> Result<Vec<T>, MarlError> {
        let is_sender = self.replicas.rank() == 0;
        let value = value.map(|value| is_sender.then_some(value));
        let values = self.world.exchange(kind, value)?;
        Ok(values.into_iter().flatten().collect())
    }

    /// [`Ranks::exchange_parts`], but only rank 0 gets the values.
    ///
    /// # Errors
    /// As [`RankGroup::collect`].
    pub fn collect_parts<T: Serialize + DeserializeOwned>(
        &self,
        kind: Message,
        value: T,
    ) -> Result<Vec<T>, MarlError> {
        let is_sender = self.replicas.rank() == 0;
        let values = self.world.collect(kind, is_sender.then_some(value))?;
        Ok(values.into_iter().flatten().collect())
    }

    /// Keeps those items that every rank has: `None` is an item whose prompt does not fit on this rank. All ranks pass
    /// the same number of items.
    ///
    /// # Errors
    /// As [`RankGroup::exchange`].
    pub(crate) fn keep_fitting<T>(
        &self,
        items: Result<Vec<Option<T>>, MarlError>,
    ) -> Result<Vec<Option<T>>, MarlError> {
        let (mut items, fits) = match items {
            Ok(items) => {
                let fits: Vec<bool> = items.iter().map(Option::is_some).collect();
                (items, Ok(fits))
            }
            Err(error) => (Vec::new(), Err(error)),
        };
        for of_part in self.exchange_parts(Message::Responses, fits)? {
            for (item, fits) in items.iter_mut().zip(of_part) {
                item.take_if(|_| !fits);
            }
        }
        Ok(items)
    }

    /// What this rank has sent so far.
    pub fn traffic(&self) -> TrafficTotal {
        let traffic = &self.world.traffic;
        TrafficTotal {
            bytes: std::array::from_fn(|kind| traffic.bytes[kind].load(Ordering::Relaxed)),
            time: Duration::from_nanos(traffic.nanos.load(Ordering::Relaxed)),
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

    #[test]
    fn every_item_is_dealt_to_one_rank() {
        for size in 1..5 {
            for items in 0..9 {
                let mut dealt = Vec::new();
                for communicator in crate::thread_ranks(size) {
                    let group = RankGroup::of(communicator);
                    dealt.extend(group.share(items));
                }
                assert!(dealt.into_iter().eq(0..items), "{items} to {size}");
            }
        }
    }
}
