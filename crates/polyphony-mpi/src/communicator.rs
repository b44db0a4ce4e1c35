//! The operations of a communicator as calls of MPI.

use std::{
    borrow::Cow,
    fmt,
    mem::ManuallyDrop,
    ops::Range,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use half::bf16;
use mpi::{
    Count, Rank,
    datatype::{Partition, PartitionMut},
    topology::{Color, SimpleCommunicator},
    traits::{
        Communicator as _, CommunicatorCollectives as _, Destination as _, Equivalence, Root as _,
        Source as _,
    },
};
use polyphony_marl::{CommunicationError, Communicator, NodeRank, SumFormat};

use crate::waiting::wait_for_ranks;

/// The tag of the message with which a rank announces that it has arrived.
const ARRIVAL: mpi::Tag = 1;

/// The number of values that are summed up at a time. It bounds the memory of the receive buffer.
const BLOCK: usize = 1 << 22;

/// MPI is initialized with `MPI_THREAD_SERIALIZED`, so no two calls may overlap.
static CALLS: Mutex<()> = Mutex::new(());

fn serialized() -> MutexGuard<'static, ()> {
    CALLS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A communicator of MPI.
pub(crate) struct MpiCommunicator {
    /// It is never freed: that would be another collective call, which cannot be made after a failure.
    inner: ManuallyDrop<SimpleCommunicator>,
    rank: usize,
    /// The numbers of its ranks among all ranks, which warnings name.
    world_ranks: Vec<usize>,
    node: NodeRank,
    library: Option<String>,
    /// The time after which a waiting rank logs a warning, which the groups of a communicator share.
    warn_after_millis: Arc<AtomicU64>,
}

// SAFETY: the handle of a communicator is a plain value that any thread may use. Every method that calls MPI holds `CALLS`
// meanwhile, and the handle is never freed.
unsafe impl Send for MpiCommunicator {}
// SAFETY: as above; no method changes the handle.
unsafe impl Sync for MpiCommunicator {}

impl fmt::Debug for MpiCommunicator {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (rank, size) = (self.rank(), self.size());
        write!(formatter, "MpiCommunicator(rank {rank} of {size})")
    }
}

impl MpiCommunicator {
    /// The communicator of all processes.
    pub(crate) fn world(inner: SimpleCommunicator) -> Self {
        let _serialized = serialized();
        let (rank, size) = (inner.rank(), inner.size() as usize);
        let node = inner.split_shared(rank);
        let mut first = [0; 1];
        if node.rank() == 0 {
            first = [rank];
        }
        node.process_at_rank(0).broadcast_into(&mut first[..]);
        Self {
            rank: rank as usize,
            world_ranks: (0..size).collect(),
            node: NodeRank {
                rank: node.rank() as usize,
                first: first[0] as usize,
            },
            library: library(),
            inner: ManuallyDrop::new(inner),
            warn_after_millis: Arc::new(AtomicU64::new(300_000)),
        }
    }

    /// Tells all ranks a number, and waits until each of them has told its own. This shows which ranks are late, which
    /// the operations of MPI do not.
    fn announce(&self, number: usize) -> Vec<usize> {
        let (rank, number) = (self.rank(), number as u64);
        let limit = Duration::from_millis(self.warn_after_millis.load(Ordering::Relaxed));
        let mut numbers = vec![number; self.size()];
        mpi::request::scope(|scope| {
            let other = |other: &usize| *other != rank;
            let sends: Vec<_> = (0..self.size())
                .filter(other)
                .map(|other| {
                    let other = self.inner.process_at_rank(other as Rank);
                    other.immediate_send_with_tag(scope, &number, ARRIVAL)
                })
                .collect();
            let slots = numbers.iter_mut().enumerate();
            let mut receives: Vec<_> = slots
                .filter(|(other, _)| *other != rank)
                .map(|(other, slot)| {
                    let process = self.inner.process_at_rank(other as Rank);
                    let receive = process.immediate_receive_into_with_tag(scope, slot, ARRIVAL);
                    (other, receive)
                })
                .collect();
            wait_for_ranks(self.world_ranks[rank], limit, || {
                let waiting = std::mem::take(&mut receives).into_iter();
                receives = waiting
                    .filter_map(|(other, receive)| {
                        receive.test().err().map(|receive| (other, receive))
                    })
                    .collect();
                let missing = receives.iter();
                missing.map(|(other, _)| self.world_ranks[*other]).collect()
            });
            sends
                .into_iter()
                .for_each(|send| send.wait_without_status());
        });
        numbers.into_iter().map(|number| number as usize).collect()
    }

    /// The counts and offsets of messages of these lengths in a buffer.
    fn partition(lengths: &[usize]) -> Result<(Vec<Count>, Vec<Count>), CommunicationError> {
        let total: usize = lengths.iter().sum();
        if Count::try_from(total).is_err() {
            return Err(CommunicationError::Failed {
                operation: "gathering messages",
                message: format!(
                    "they have {total} bytes together, but MPI counts at most {} in one operation",
                    Count::MAX
                ),
            });
        }
        // None of the numbers is larger than the total.
        let counts: Vec<Count> = lengths.iter().map(|length| *length as Count).collect();
        let offsets = counts.iter().scan(0, |end, count| {
            let start = *end;
            *end += count;
            Some(start)
        });
        let offsets = offsets.collect();
        Ok((counts, offsets))
    }

    /// Adds up a block of numbers, which are sent as numbers of type `T`. Each rank adds one share of the block, then all
    /// shares are collected.
    fn sum_block<T: WireNumber>(&self, numbers: &mut [f32]) -> Result<(), CommunicationError> {
        let (rank, size) = (self.rank(), self.size());
        let share = |of: usize| -> Range<usize> {
            numbers.len() * of / size..numbers.len() * (of + 1) / size
        };
        let dealt = share(rank);
        let lengths: Vec<usize> = (0..size).map(|of| share(of).len()).collect();
        let (counts, offsets) = Self::partition(&lengths)?;
        let (dealt_counts, dealt_offsets) = Self::partition(&vec![dealt.len(); size])?;
        let mut received = vec![T::default(); dealt.len() * size];
        self.inner.all_to_all_varcount_into(
            &Partition::new(&*T::pack(numbers), counts.as_slice(), offsets.as_slice()),
            &mut PartitionMut::new(&mut received[..], dealt_counts, dealt_offsets),
        );
        let first = received[..dealt.len()].iter();
        let mut sums: Vec<f32> = first.map(|number| number.widen()).collect();
        for values in received.chunks_exact(dealt.len().max(1)).skip(1) {
            for (sum, value) in sums.iter_mut().zip(values) {
                *sum += value.widen();
            }
        }
        T::fill(numbers, |all| {
            let mut all = PartitionMut::new(all, counts, offsets);
            self.inner
                .all_gather_varcount_into(&*T::pack(&sums), &mut all);
        });
        Ok(())
    }
}

/// A number in the form in which it is sent.
trait WireNumber: Equivalence + Copy + Default {
    fn pack(numbers: &[f32]) -> Cow<'_, [Self]>;

    fn widen(self) -> f32;

    /// Replaces numbers by those that `receive` writes.
    fn fill(numbers: &mut [f32], receive: impl FnOnce(&mut [Self]));
}

impl WireNumber for f32 {
    fn pack(numbers: &[f32]) -> Cow<'_, [Self]> {
        Cow::Borrowed(numbers)
    }

    fn widen(self) -> f32 {
        self
    }

    fn fill(numbers: &mut [f32], receive: impl FnOnce(&mut [Self])) {
        receive(numbers);
    }
}

/// The bits of a number in bfloat16, a type that MPI lacks.
impl WireNumber for u16 {
    fn pack(numbers: &[f32]) -> Cow<'_, [Self]> {
        let rounded = |number: &f32| bf16::from_f32(*number).to_bits();
        Cow::Owned(numbers.iter().map(rounded).collect())
    }

    fn widen(self) -> f32 {
        bf16::from_bits(self).to_f32()
    }

    fn fill(numbers: &mut [f32], receive: impl FnOnce(&mut [Self])) {
        let mut received = vec![0; numbers.len()];
        receive(&mut received);
        for (number, bits) in numbers.iter_mut().zip(received) {
            *number = bits.widen();
        }
    }
}

/// The messages in a buffer that holds one after the other.
fn split(buffer: &[u8], lengths: &[usize]) -> Vec<Vec<u8>> {
    let mut rest = buffer;
    let messages = lengths.iter().map(|length| {
        let message;
        (message, rest) = rest.split_at(*length);
        message.to_vec()
    });
    messages.collect()
}

/// The name and the version of the MPI library.
fn library() -> Option<String> {
    let version = mpi::environment::library_version().ok()?;
    // Open MPI adds the package and the build, and MPICH several lines.
    let end = version.find([',', '\n', '\0']).unwrap_or(version.len());
    let name = version[..end]
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ");
    Some(name).filter(|name| !name.is_empty())
}

impl Communicator for MpiCommunicator {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.world_ranks.len()
    }

    fn gather(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, CommunicationError> {
        let _serialized = serialized();
        let lengths = self.announce(bytes.len());
        let (counts, offsets) = Self::partition(&lengths)?;
        let mut buffer = vec![0_u8; lengths.iter().sum()];
        let mut parts = PartitionMut::new(&mut buffer[..], counts, offsets);
        self.inner.all_gather_varcount_into(bytes, &mut parts);
        Ok(split(&buffer, &lengths))
    }

    fn gather_to_first(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, CommunicationError> {
        let _serialized = serialized();
        let lengths = self.announce(bytes.len());
        let (counts, offsets) = Self::partition(&lengths)?;
        let first = self.inner.process_at_rank(0);
        if self.rank() > 0 {
            first.gather_varcount_into(bytes);
            return Ok(Vec::new());
        }
        let mut buffer = vec![0_u8; lengths.iter().sum()];
        let mut parts = PartitionMut::new(&mut buffer[..], counts, offsets);
        first.gather_varcount_into_root(bytes, &mut parts);
        Ok(split(&buffer, &lengths))
    }

    fn sum(&self, numbers: &mut [f32], format: SumFormat) -> Result<(), CommunicationError> {
        let _serialized = serialized();
        let mut blocks = numbers.chunks_mut(BLOCK);
        match format {
            SumFormat::F32 => blocks.try_for_each(|block| self.sum_block::<f32>(block)),
            SumFormat::Bf16 => blocks.try_for_each(|block| self.sum_block::<u16>(block)),
        }
    }

    fn split(&self, group: usize) -> Result<Arc<dyn Communicator>, CommunicationError> {
        let color = i32::try_from(group).map_err(|_| CommunicationError::Failed {
            operation: "splitting ranks",
            message: format!("{group} is too large for the number of a group"),
        })?;
        let groups = self.gather(&group.to_le_bytes())?;
        let _serialized = serialized();
        let color = Color::with_value(color);
        let inner = self.inner.split_by_color_with_key(color, self.rank as Rank);
        let inner = inner.ok_or_else(|| CommunicationError::Failed {
            operation: "splitting ranks",
            message: "MPI has made no group for this rank".to_owned(),
        })?;
        let members = self.world_ranks.iter().zip(&groups);
        let members = members.filter(|(_, of_rank)| ***of_rank == group.to_le_bytes());
        Ok(Arc::new(Self {
            rank: inner.rank() as usize,
            world_ranks: members.map(|(rank, _)| *rank).collect(),
            inner: ManuallyDrop::new(inner),
            node: self.node,
            library: self.library.clone(),
            warn_after_millis: Arc::clone(&self.warn_after_millis),
        }))
    }

    fn node(&self) -> NodeRank {
        self.node
    }

    fn library(&self) -> Option<String> {
        self.library.clone()
    }

    fn warn_after(&self, limit: Duration) {
        let millis = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        self.warn_after_millis.store(millis, Ordering::Relaxed);
    }
}
