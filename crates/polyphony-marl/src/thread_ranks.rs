//! Ranks that are threads of one process. With them, a program or test with several ranks needs neither MPI nor
//! other machines.

use std::{
    collections::HashMap,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use half::bf16;

use crate::communicator::{CommunicationError, Communicator, NodeRank, SumFormat};

/// Communicators for this many ranks, one for each thread. A rank whose communicator is dropped while others wait
/// for it is an error for them.
///
/// ```
/// # use polyphony_marl::{Communicator, SumFormat, thread_ranks};
/// let ranks = std::thread::scope(|scope| {
///     let run = |rank: std::sync::Arc<dyn Communicator>| {
///         let mut numbers = [rank.rank() as f32, 1.0];
///         rank.sum(&mut numbers, SumFormat::F32).unwrap();
///         numbers
///     };
///     let threads: Vec<_> = thread_ranks(3).into_iter().map(|rank| scope.spawn(move || run(rank))).collect();
///     threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
/// });
/// assert_eq!(ranks, [[3.0, 3.0]; 3]);
/// ```
pub fn thread_ranks(size: usize) -> Vec<Arc<dyn Communicator>> {
    let board = Arc::new(Board::new(size));
    (0..size)
        .map(|rank| Arc::new(ThreadRank::new(rank, Arc::clone(&board))) as Arc<dyn Communicator>)
        .collect()
}

#[derive(Debug)]
struct ThreadRank {
    rank: usize,
    board: Arc<Board>,
    splits: AtomicUsize,
}

/// Where the ranks leave their messages.
#[derive(Debug)]
struct Board {
    size: usize,
    state: Mutex<BoardState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct BoardState {
    /// The message of each rank in this round.
    messages: Vec<Option<Arc<[u8]>>>,
    /// The number of ranks that have read all messages of this round.
    readers: usize,
    /// A rank that has ended.
    lost: Option<usize>,
    /// The boards of the groups, by the number of the split and that of the group.
    groups: HashMap<(usize, usize), Arc<Board>>,
}

impl Board {
    fn new(size: usize) -> Self {
        let state = BoardState {
            messages: vec![None; size],
            ..BoardState::default()
        };
        Self {
            size,
            state: Mutex::new(state),
            changed: Condvar::new(),
        }
    }

    /// The state. A thread that panicked is reported through `lost`.
    fn state(&self) -> MutexGuard<'_, BoardState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the state is as wanted.
    fn wait<'a>(
        &'a self,
        mut state: MutexGuard<'a, BoardState>,
        is_wanted: impl Fn(&BoardState) -> bool,
    ) -> Result<MutexGuard<'a, BoardState>, CommunicationError> {
        while !is_wanted(&state) {
            if let Some(rank) = state.lost {
                return Err(CommunicationError::Lost { rank });
            }
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        Ok(state)
    }
}

impl ThreadRank {
    fn new(rank: usize, board: Arc<Board>) -> Self {
        Self {
            rank,
            board,
            splits: AtomicUsize::new(0),
        }
    }

    fn messages(&self, bytes: &[u8]) -> Result<Vec<Arc<[u8]>>, CommunicationError> {
        let board = &self.board;
        // A message of the round before may still be unread.
        let mut state = board.wait(board.state(), |state| state.messages[self.rank].is_none())?;
        state.messages[self.rank] = Some(bytes.into());
        board.changed.notify_all();
        let mut state = board.wait(state, |state| state.messages.iter().all(Option::is_some))?;
        let messages = state.messages.iter().flatten().cloned().collect();
        state.readers += 1;
        if state.readers == board.size {
            state.readers = 0;
            state.messages.fill(None);
            board.changed.notify_all();
        }
        Ok(messages)
    }
}

impl Communicator for ThreadRank {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.board.size
    }

    fn gather(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, CommunicationError> {
        let messages = self.messages(bytes)?;
        Ok(messages.iter().map(|message| message.to_vec()).collect())
    }

    fn gather_to_first(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, CommunicationError> {
        let messages = self.gather(bytes)?;
        Ok(if self.rank == 0 { messages } else { Vec::new() })
    }

    fn sum(&self, numbers: &mut [f32], format: SumFormat) -> Result<(), CommunicationError> {
        let rounded = |number: f32| match format {
            SumFormat::F32 => number,
            SumFormat::Bf16 => bf16::from_f32(number).to_f32(),
        };
        let bytes: Vec<u8> = numbers
            .iter()
            .flat_map(|number| rounded(*number).to_le_bytes())
            .collect();
        let messages = self.messages(&bytes)?;
        for (index, number) in numbers.iter_mut().enumerate() {
            let values = messages.iter().map(|message| {
                let (values, _) = message.as_chunks::<4>();
                f32::from_le_bytes(values[index])
            });
            // Not `sum`, which starts at -0.0.
            let sum = values.reduce(|sum, value| sum + value);
            *number = rounded(sum.unwrap_or_default());
        }
        Ok(())
    }

    fn split(&self, group: usize) -> Result<Arc<dyn Communicator>, CommunicationError> {
        let number = self.splits.fetch_add(1, Ordering::Relaxed);
        let groups = self.gather(&group.to_le_bytes())?;
        let is_member = |bytes: &&Vec<u8>| ***bytes == group.to_le_bytes();
        let size = groups.iter().filter(is_member).count();
        let rank = groups[..self.rank].iter().filter(is_member).count();
        let mut state = self.board.state();
        let board = state.groups.entry((number, group));
        let board = Arc::clone(board.or_insert_with(|| Arc::new(Board::new(size))));
        Ok(Arc::new(Self::new(rank, board)))
    }

    fn node(&self) -> NodeRank {
        NodeRank {
            rank: self.rank,
            first: 0,
        }
    }
}

impl Drop for ThreadRank {
    fn drop(&mut self) {
        let mut state = self.board.state();
        state.lost.get_or_insert(self.rank);
        self.board.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    /// Runs a function on each of this many ranks. The results are in the order of the ranks.
    fn on_ranks<R: Send>(size: usize, run: impl Fn(&dyn Communicator) -> R + Sync) -> Vec<R> {
        let run = &run;
        thread::scope(|scope| {
            let ranks = thread_ranks(size).into_iter();
            let threads: Vec<_> = ranks.map(|rank| scope.spawn(move || run(&*rank))).collect();
            let results = threads.into_iter().map(|thread| thread.join().unwrap());
            results.collect()
        })
    }

    #[test]
    fn every_rank_gets_the_messages_of_all_in_each_round() {
        let rounds = |rank: &dyn Communicator| -> Vec<Vec<Vec<u8>>> {
            let round = |round: u8| rank.gather(&vec![rank.rank() as u8; usize::from(round)]);
            (0..50).map(|number| round(number).unwrap()).collect()
        };
        for messages in on_ranks(3, rounds) {
            for (round, messages) in messages.iter().enumerate() {
                assert_eq!(*messages, [0, 1, 2].map(|rank| vec![rank; round]));
            }
        }
        let first = on_ranks(2, |rank| rank.gather_to_first(b"x").unwrap().len());
        assert_eq!(first, [2, 0]);
    }

    #[test]
    fn sums_add_in_the_order_of_ranks() {
        // In another order the large numbers would not cancel before the small one is added.
        let values = [1e30, -1e30, 1.0];
        let sums = on_ranks(3, |rank| {
            let mut numbers = [values[rank.rank()], -0.0];
            rank.sum(&mut numbers, SumFormat::F32).unwrap();
            numbers.map(f32::to_bits)
        });
        assert_eq!(sums, [[1.0_f32, -0.0].map(f32::to_bits); 3]);
    }

    #[test]
    fn numbers_that_travel_in_bf16_are_rounded_before_and_after_they_are_added() {
        // Next to 1, bfloat16 has steps of 1/128.
        let small = 3.0 / 1024.0;
        let values = [[1.0 + small, 1.0], [small, 1.0 / 256.0]];
        let sums = on_ranks(2, |rank| {
            let mut numbers = values[rank.rank()];
            rank.sum(&mut numbers, SumFormat::Bf16).unwrap();
            numbers
        });
        // Without the first rounding, the small parts would add up to a step.
        assert_eq!(sums, [[1.0, 1.0]; 2]);
    }

    #[test]
    fn a_split_connects_the_ranks_with_one_number() {
        let members = on_ranks(5, |rank| {
            let group = rank.split(rank.rank() % 2).unwrap();
            let members = group.gather(&[rank.rank() as u8]).unwrap().concat();
            let again = group.split(7).unwrap();
            (members, again.rank(), again.size())
        });
        let (even, odd) = (vec![0, 2, 4], vec![1, 3]);
        let expected = [
            (&even, 0, 3),
            (&odd, 0, 2),
            (&even, 1, 3),
            (&odd, 1, 2),
            (&even, 2, 3),
        ];
        let expected = expected.map(|(members, rank, size)| (members.clone(), rank, size));
        assert_eq!(members, expected);
    }

    #[test]
    fn waiting_for_a_rank_that_has_ended_is_an_error() {
        let outcomes = on_ranks(3, |rank| match rank.rank() {
            1 => Ok(Vec::new()),
            _ => rank.gather(b""),
        });
        let lost = Err(CommunicationError::Lost { rank: 1 });
        assert_eq!(outcomes, [lost.clone(), Ok(Vec::new()), lost]);
    }
}
