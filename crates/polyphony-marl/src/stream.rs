//! The random numbers of a run. Each response has its own stream, and so does everything else that is
//! drawn. The key of a stream is its place in the run, so results do not depend on what else is drawn, or
//! in which order.

use polyphony_model::StreamKey;

use crate::MarlError;

/// The step number of evaluation. No training step has it, so an evaluation draws its own random numbers.
pub const EVALUATION_STEP: u32 = u32::MAX;

/// Identifies the random stream of a response by its place in a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamId {
    /// The run's seed.
    pub seed: u64,
    /// The training step, or [`EVALUATION_STEP`].
    pub step: u32,
    /// The task's index in its data set.
    pub task: u32,
    /// The role's index in the environment.
    pub role: u16,
    /// The turn, counted from 0.
    pub turn: u16,
    /// The number of the joint action that led to the node, among all that are possible at the turn before.
    /// In the episodes of an evaluation, the number of sampling passes of the turn so far: one per round of
    /// the protocol, or one per role in a round whose roles answer in turn.
    pub branch: u32,
    /// The response's index among those to one prompt.
    pub sample: u32,
}

/// The purpose of a key, in its last four bytes. They are 0 in the keys of responses.
#[derive(Clone, Copy, Debug)]
enum Purpose {
    Response = 0,
    Shuffle = 1,
    Weights = 2,
}

impl StreamId {
    /// The key of the response's stream.
    pub fn key(&self) -> StreamKey {
        self.key_for(Purpose::Response)
    }

    fn key_for(&self, purpose: Purpose) -> StreamKey {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&self.seed.to_le_bytes());
        key[8..12].copy_from_slice(&self.step.to_le_bytes());
        key[12..16].copy_from_slice(&self.task.to_le_bytes());
        key[16..18].copy_from_slice(&self.role.to_le_bytes());
        key[18..20].copy_from_slice(&self.turn.to_le_bytes());
        key[20..24].copy_from_slice(&self.branch.to_le_bytes());
        key[24..28].copy_from_slice(&self.sample.to_le_bytes());
        key[28..].copy_from_slice(&(purpose as u32).to_le_bytes());
        StreamKey(key)
    }

    /// The keys of this many responses to one prompt.
    pub(crate) fn keys(self, samples: usize) -> Result<Vec<StreamKey>, MarlError> {
        let count = to_stream_key_field("responses to one prompt", samples)?;
        Ok((0..count)
            .map(|sample| Self { sample, ..self }.key())
            .collect())
    }

    /// The [`prefix_group`](polyphony_model::PromptGroup::prefix_group) of the prompts of one task and role, which are
    /// run together because they begin alike.
    pub(crate) fn prefix_group(&self) -> u64 {
        u64::from(self.task) << 16 | u64::from(self.role)
    }
}

/// The key of the stream that orders the groups of an agent's update.
pub(crate) fn shuffle_key(seed: u64, step: u32, agent: u16) -> StreamKey {
    let stream_id = StreamId {
        seed,
        step,
        role: agent,
        ..StreamId::default()
    };
    stream_id.key_for(Purpose::Shuffle)
}

/// The key of the stream that initializes new weights of an agent, such as those of a critic.
pub(crate) fn weights_key(seed: u64, agent: u16) -> StreamKey {
    let stream_id = StreamId {
        seed,
        role: agent,
        ..StreamId::default()
    };
    stream_id.key_for(Purpose::Weights)
}

/// A number as it is stored in a key.
///
/// # Errors
/// If it does not fit into a key, because then two streams would be the same.
pub(crate) fn to_stream_key_field<N: TryFrom<usize>>(
    what: &'static str,
    number: usize,
) -> Result<N, MarlError> {
    N::try_from(number).map_err(|_| MarlError::TooMany { what, number })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_field_of_an_id_changes_the_stream() {
        let id = StreamId {
            seed: 7,
            ..StreamId::default()
        };
        let changed_ids = [
            StreamId { seed: 8, ..id },
            StreamId { step: 1, ..id },
            StreamId { task: 1, ..id },
            StreamId { role: 1, ..id },
            StreamId { turn: 1, ..id },
            StreamId { branch: 1, ..id },
            StreamId { sample: 1, ..id },
        ];
        let mut keys: Vec<StreamKey> = changed_ids.iter().map(StreamId::key).collect();
        keys.extend([id.key(), shuffle_key(7, 0, 0), weights_key(7, 0)]);
        let distinct: HashSet<StreamKey> = keys.iter().copied().collect();
        assert_eq!(distinct.len(), keys.len());
    }

    /// The bytes of a key decide all random numbers of a run, so another order of the bytes would change
    /// every run.
    #[test]
    fn a_key_is_the_fields_of_its_id_in_little_endian() {
        let id = StreamId {
            seed: 0x0807_0605_0403_0201,
            step: 0x0c0b_0a09,
            task: 0x100f_0e0d,
            role: 0x1211,
            turn: 0x1413,
            branch: 0x1817_1615,
            sample: 0x1c1b_1a19,
        };
        let mut expected: [u8; 32] = std::array::from_fn(|index| index as u8 + 1);
        expected[28..].fill(0);
        assert_eq!(id.key(), StreamKey(expected));
        // The default id has the default key.
        let first = StreamId::default().key().uniform(0);
        assert_eq!(first.to_bits(), StreamKey::default().uniform(0).to_bits());
    }

    #[test]
    fn a_number_that_does_not_fit_is_an_error_that_names_it() {
        assert_eq!(to_stream_key_field::<u16>("turns", 65_535).unwrap(), 65_535);
        let message = to_stream_key_field::<u16>("turns", 65_536)
            .unwrap_err()
            .to_string();
        assert!(message.contains("65536 turns"), "{message}");
    }
}
