//! Which tasks a step plays.

use rand::{SeedableRng as _, seq::SliceRandom as _};
use rand_chacha::ChaCha8Rng;

/// Walks through a data set again and again, in a new order each time. The order follows from the
/// seed alone, so a run can continue from its step's number.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Schedule {
    /// The run's seed.
    pub(crate) seed: u64,
    /// Tasks in the data set.
    pub(crate) tasks: usize,
    /// Tasks of one step.
    pub(crate) per_step: usize,
}

impl Schedule {
    /// The indices of the tasks that a step plays.
    pub(crate) fn step(&self, step: usize) -> Vec<usize> {
        let first = step * self.per_step;
        let mut pass: Option<(usize, Vec<usize>)> = None;
        let positions = first..first + self.per_step;
        positions
            .map(|position| {
                let number = position / self.tasks;
                if pass.as_ref().is_none_or(|(current, _)| *current != number) {
                    pass = Some((number, self.order(number)));
                }
                pass.as_ref()
                    .map_or(0, |(_, order)| order[position % self.tasks])
            })
            .collect()
    }

    /// The order of one pass through the data set.
    fn order(&self, pass: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.tasks).collect();
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(pass as u64);
        order.shuffle(&mut rng);
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCHEDULE: Schedule = Schedule {
        seed: 3,
        tasks: 10,
        per_step: 4,
    };

    #[test]
    fn every_pass_plays_each_task_once_in_a_new_order() {
        let played: Vec<usize> = (0..5).flat_map(|step| SCHEDULE.step(step)).collect();
        let (first, second) = played.split_at(10);
        for pass in [first, second] {
            let mut sorted = pass.to_vec();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..10).collect::<Vec<_>>());
        }
        assert_ne!(first, second);
    }

    #[test]
    fn the_order_follows_from_the_seed() {
        assert_eq!(SCHEDULE.step(2), SCHEDULE.step(2));
        let other = Schedule {
            seed: 4,
            ..SCHEDULE
        };
        assert_ne!(
            (0..3).map(|s| other.step(s)).collect::<Vec<_>>(),
            (0..3).map(|s| SCHEDULE.step(s)).collect::<Vec<_>>()
        );
    }
}
