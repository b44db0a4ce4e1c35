//! Chooses the tasks of each step.

use rand::{SeedableRng as _, seq::SliceRandom as _};
use rand_chacha::ChaCha8Rng;

/// Passes through a data set repeatedly, in a new order each time. The order depends only on the seed, so a
/// run can be resumed at any step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TaskSampler {
    /// The run's seed.
    pub(crate) seed: u64,
    /// Tasks in the data set.
    pub(crate) tasks: usize,
    /// Tasks per step.
    pub(crate) per_step: usize,
}

impl TaskSampler {
    /// The indices of the tasks that a step plays, all different. A pass ends when too few tasks for a step
    /// are left. The next pass has another order and therefore leaves out other tasks.
    pub(crate) fn step(&self, step: usize) -> Vec<usize> {
        let steps_per_pass = (self.tasks / self.per_step).max(1);
        let (pass, step_in_pass) = (step / steps_per_pass, step % steps_per_pass);
        let order = self.order(pass).into_iter();
        order
            .skip(step_in_pass * self.per_step)
            .take(self.per_step)
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

    const SAMPLER: TaskSampler = TaskSampler {
        seed: 3,
        tasks: 10,
        per_step: 4,
    };

    #[test]
    fn a_pass_plays_no_task_twice_and_the_next_has_another_order() {
        let passes = [0, 2].map(|first| [SAMPLER.step(first), SAMPLER.step(first + 1)].concat());
        for pass in &passes {
            let mut played = pass.clone();
            played.sort_unstable();
            played.dedup();
            assert_eq!(played.len(), 8);
            assert!(played.iter().all(|&task| task < 10));
        }
        assert_ne!(passes[0], passes[1]);
    }

    #[test]
    fn the_order_follows_from_the_seed() {
        assert_eq!(SAMPLER.step(2), SAMPLER.step(2));
        let other = TaskSampler { seed: 4, ..SAMPLER };
        assert_ne!(
            (0..3).map(|s| other.step(s)).collect::<Vec<_>>(),
            (0..3).map(|s| SAMPLER.step(s)).collect::<Vec<_>>()
        );
    }
}
