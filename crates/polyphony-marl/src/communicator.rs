//! The connection between the processes that train one team. Each process is a *rank*.

use std::{fmt::Debug, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Connects a process with the others that train the same team. Every operation is collective: all ranks call
/// it, in the same order, and it returns when all have done so.
pub trait Communicator: Debug + Send + Sync {
    /// The index of this rank, counted from 0.
    fn rank(&self) -> usize;

    /// The number of ranks.
    fn size(&self) -> usize;

    /// Sends bytes to all ranks. Returns what each rank has sent, in the order of the ranks.
    ///
    /// # Errors
    /// If another rank cannot be reached.
    fn gather(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, CommunicationError>;

    /// Sends bytes to rank 0, which gets what each rank has sent, in the order of the ranks. The other ranks get
    /// an empty list.
    ///
    /// # Errors
    /// If another rank cannot be reached.
    fn gather_to_first(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, CommunicationError>;

    /// Replaces each number by the sum of the numbers at the same index on all ranks. All ranks pass equally many
    /// numbers. The numbers of the ranks are added in the order of the ranks, so all ranks get the same bits, and
    /// so does every repetition. In [`SumFormat::Bf16`], the numbers of each rank are rounded before they are added,
    /// and the sum is rounded again.
    ///
    /// # Errors
    /// If another rank cannot be reached.
    fn sum(&self, numbers: &mut [f32], format: SumFormat) -> Result<(), CommunicationError>;

    /// A communicator of those ranks that pass the same number, in their order.
    ///
    /// # Errors
    /// If another rank cannot be reached.
    fn split(&self, group: usize) -> Result<Arc<dyn Communicator>, CommunicationError>;

    /// The place of this rank among those on the same machine.
    fn node(&self) -> NodeRank;

    /// The library that sends the messages, and its version; `None` if there is none.
    fn library(&self) -> Option<String> {
        None
    }

    /// Logs a warning that names the missing ranks whenever an operation waits for longer than this.
    fn warn_after(&self, _limit: Duration) {}
}

/// How the numbers of [`Communicator::sum`] are sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SumFormat {
    /// 32-bit floats.
    #[default]
    F32,
    /// bfloat16, which has 8 significant bits: half the bytes.
    Bf16,
}

impl SumFormat {
    /// Bytes of a number.
    pub const fn bytes(self) -> usize {
        match self {
            Self::F32 => size_of::<f32>(),
            Self::Bf16 => size_of::<half::bf16>(),
        }
    }
}

/// The place of a rank among those on the same machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeRank {
    /// Its index among them, counted from 0.
    pub rank: usize,
    /// The number of the first of them among all ranks, by which machines can be told apart.
    pub first: usize,
}

/// Why ranks could not communicate.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CommunicationError {
    /// A rank has ended while others wait for it.
    #[error("rank {rank} has ended while this rank waited for it")]
    Lost {
        /// The rank, as the communicator that reports the error counts it.
        rank: usize,
    },
    /// The library that sends messages failed.
    #[error("{operation} failed: {message}")]
    Failed {
        /// What was attempted.
        operation: &'static str,
        /// What the library says.
        message: String,
    },
}

/// The communicator of a process that trains a team alone.
#[derive(Clone, Copy, Debug, Default)]
pub struct SingleRank;

impl Communicator for SingleRank {
    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        1
    }

    fn gather(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, CommunicationError> {
        Ok(vec![bytes.to_vec()])
    }

    fn gather_to_first(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, CommunicationError> {
        self.gather(bytes)
    }

    fn sum(&self, _: &mut [f32], _: SumFormat) -> Result<(), CommunicationError> {
        Ok(())
    }

    fn split(&self, _: usize) -> Result<Arc<dyn Communicator>, CommunicationError> {
        Ok(Arc::new(Self))
    }

    fn node(&self) -> NodeRank {
        NodeRank { rank: 0, first: 0 }
    }
}
