//! How the processes that train one team share its agents and their work.
//!
//! Ranks form a [`Grid`]: the agents are divided into parts, and each part is held by one rank per replica. All
//! ranks play the same tasks in step with one another. Between parts travel responses, rewards and metrics; the
//! replicas of one part also exchange what they have sampled and scored, and sum up their gradients.

use std::{ops::Range, sync::Arc};

use serde::{Serialize, de::DeserializeOwned};

use crate::{
    MarlError,
    communicator::{CommunicationError, Communicator, SingleRank, SumFormat},
    grid::Grid,
    traffic::{Message, Traffic, TrafficTotal},
};

/// Some ranks that exchange values.
#[derive(Clone, Debug)]
pub struct RankGroup {
    communicator: Arc<dyn Communicator>,
    /// The numbers of the ranks among all ranks, which messages to users name.
    world_ranks: Vec<usize>,
    /// How gradients are sent. Only replicas exchange them.
    gradients: SumFormat,
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
        Self {
            communicator,
            world_ranks,
            gradients: SumFormat::default(),
            traffic: Arc::default(),
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
        let messages = self.traffic.timed(|| self.communicator.gather(&bytes))?;
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
        let messages = self
            .traffic
            .timed(|| self.communicator.gather_to_first(&bytes))?;
        decode_all(value, &messages)
    }

    /// Keeps a value on this rank, and sends what `message` makes of it to all ranks. Returns the value, and the messages of
    /// all ranks in their order.
    ///
    /// # Errors
    /// As [`RankGroup::exchange`].
    pub fn publish<T, M: Serialize + DeserializeOwned>(
        &self,
        kind: Message,
        value: Result<T, MarlError>,
        message: impl FnOnce(&T) -> M,
    ) -> Result<(T, Vec<M>), MarlError> {
        match value {
            Ok(value) => {
                let messages = self.exchange(kind, Ok(message(&value)))?;
                Ok((value, messages))
            }
            Err(error) => {
                self.exchange::<M>(kind, Err(error))?;
                unreachable!("`exchange` returns the error that it is given")
            }
        }
    }

    /// Makes all ranks return an error if one of them has one, so that they stay in step. The outcome must not
    /// be that of an operation in which ranks have agreed already.
    ///
    /// # Errors
    /// As [`RankGroup::exchange`].
    pub fn agree<T>(&self, outcome: Result<T, MarlError>) -> Result<T, MarlError> {
        let (value, _) = self.publish(Message::Records, outcome, |_| ())?;
        Ok(value)
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

    /// Sums up gradients over all ranks, always in the same order.
    ///
    /// # Errors
    /// If a rank cannot be reached.
    pub fn sum_gradients(&self, numbers: &mut [f32]) -> Result<(), MarlError> {
        if self.is_single() {
            return Ok(());
        }
        // Each rank sends every other one its share of the numbers, and later the share that it has summed up.
        let others = self.size() - 1;
        let bytes = 2 * (numbers.len() * self.gradients.bytes() * others) as u64;
        let bytes = bytes / self.size() as u64;
        self.traffic.count(Message::Gradients, bytes);
        let sum = || self.communicator.sum(numbers, self.gradients);
        Ok(self.traffic.timed(sum)?)
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
        self.traffic.count(kind, (bytes.len() * receivers) as u64);
        bytes
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
    /// Arranges ranks in a grid that has as many ranks as the communicator. Gradients travel between replicas in
    /// the format `gradients`.
    ///
    /// # Errors
    /// If a rank cannot be reached.
    ///
    /// # Panics
    /// If the grid has another number of ranks.
    pub fn new(
        world: Arc<dyn Communicator>,
        grid: Grid,
        gradients: SumFormat,
    ) -> Result<Self, CommunicationError> {
        assert_eq!(
            world.size(),
            grid.ranks(),
            "a grid has a place for each rank"
        );
        let part = grid.part_of(world.rank());
        let replicas = world.split(part)?;
        let members = (0..grid.replicas).map(|replica| replica * grid.parts + part);
        let world = RankGroup::of(world);
        let replicas = RankGroup {
            communicator: replicas,
            world_ranks: members.collect(),
            gradients,
            traffic: Arc::clone(&world.traffic),
        };
        Ok(Self {
            grid,
            world,
            replicas,
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

    /// The part of the team that this rank holds.
    pub fn part(&self) -> usize {
        self.grid.part_of(self.world.rank())
    }

    /// The agents of a team that this rank holds, by their index in the team.
    pub fn agents(&self, team_size: usize) -> Range<usize> {
        self.agents_of(self.part(), team_size)
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

    /// [`RankGroup::publish`] for parts: the first replica of each part sends the message of its part.
    pub(crate) fn publish_parts<T, M: Serialize + DeserializeOwned>(
        &self,
        kind: Message,
        value: Result<T, MarlError>,
        message: impl FnOnce(&T) -> M,
    ) -> Result<(T, Vec<M>), MarlError> {
        let is_sender = self.replicas.rank() == 0;
        let message = |value: &T| is_sender.then(|| message(value));
        let (value, messages) = self.world.publish(kind, value, message)?;
        Ok((value, messages.into_iter().flatten().collect()))
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
        let fits = |items: &Vec<Option<T>>| items.iter().map(Option::is_some).collect();
        let (mut items, by_part): (_, Vec<Vec<bool>>) =
            self.publish_parts(Message::Responses, items, fits)?;
        for of_part in by_part {
            for (item, fits) in items.iter_mut().zip(of_part) {
                item.take_if(|_| !fits);
            }
        }
        Ok(items)
    }

    /// What this rank has sent so far.
    pub fn traffic(&self) -> TrafficTotal {
        self.world.traffic.total()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
