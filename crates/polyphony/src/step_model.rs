//! Predicts the time of a training step on several ranks, from rates that were measured on this machine.
//!
//! A rank's step is: sampling for its share of the prompts, agent by agent; scoring its share of the joint actions;
//! forward and backward passes of its share of the groups of each gradient step; and communication. Sampling and the
//! passes are linear in the number of prompts and groups: the first one is more expensive than another, since a pass
//! reads all weights, whatever the number of rows.

use polyphony_marl::{Grid, SumFormat};
use serde::Serialize;

/// The measured time of one agent's work on one rank, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Rates {
    /// Sampling all responses to one prompt.
    pub(crate) first_prompt: f64,
    /// Sampling all responses to one more prompt in the same batch.
    pub(crate) another_prompt: f64,
    /// A gradient step from one group, with the optimizer.
    pub(crate) first_group: f64,
    /// One more group in the same gradient step.
    pub(crate) another_group: f64,
}

impl Rates {
    /// Sampling all responses to this many prompts, in one batch.
    pub(crate) fn sampling(&self, prompts: usize) -> f64 {
        linear(self.first_prompt, self.another_prompt, prompts)
    }

    /// A gradient step from this many groups.
    pub(crate) fn update(&self, groups: usize) -> f64 {
        linear(self.first_group, self.another_group, groups)
    }
}

/// The connection between ranks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Network {
    /// Bytes per second that a rank can send, while it receives as many.
    pub(crate) bytes_per_sec: f64,
    /// Seconds from the start of a message to its arrival.
    pub(crate) latency_secs: f64,
}

/// The work of a step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Work {
    /// Nodes of each turn, over all tasks.
    pub(crate) tasks: usize,
    /// Joint actions of a node.
    pub(crate) joint_actions: usize,
    pub(crate) turns: usize,
    pub(crate) samples: usize,
    pub(crate) response_tokens: usize,
    /// Nodes of a gradient step.
    pub(crate) minibatch: usize,
    /// Passes through the nodes of a step.
    pub(crate) epochs: usize,
    /// Weights of each agent that are trained.
    pub(crate) trained_weights: u64,
    /// The format in which gradients travel.
    pub(crate) gradients: SumFormat,
    /// Seconds to score a joint action.
    pub(crate) reward_secs: f64,
}

/// The predicted time of a step, in seconds, by activity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct StepTime {
    pub(crate) sampling_secs: f64,
    pub(crate) scoring_secs: f64,
    pub(crate) update_secs: f64,
    pub(crate) communication_secs: f64,
    /// Bytes that all ranks send in a step.
    pub(crate) bytes: u64,
}

impl StepTime {
    pub(crate) fn total(&self) -> f64 {
        self.sampling_secs + self.scoring_secs + self.update_secs + self.communication_secs
    }
}

/// The time of this many items, of which the first one takes longer.
fn linear(first: f64, another: f64, items: usize) -> f64 {
    match items {
        0 => 0.0,
        items => first + another * (items - 1) as f64,
    }
}

/// Bytes of a token of a response in a message: its id, and the text that it stands for.
const BYTES_PER_TOKEN: usize = 9;

/// Bytes of a token's log-probability in a message.
const BYTES_PER_LOGPROB: usize = 5;

impl Work {
    /// The nodes of all turns, if no episode ends early.
    fn nodes(&self) -> impl Iterator<Item = usize> {
        let (tasks, joint_actions) = (self.tasks, self.joint_actions);
        (0..self.turns).map(move |turn| tasks * joint_actions.pow(turn as u32))
    }

    /// The predicted time of a step on the ranks of a grid, from the rates of each agent.
    pub(crate) fn on(&self, grid: Grid, rates: &[Rates], network: &Network) -> StepTime {
        let agents = rates.len() / grid.parts;
        // Parts wait for the slowest one after sampling, and again after the update.
        let slowest_part = |secs: &dyn Fn(&Rates) -> f64| {
            let parts = rates.chunks(agents);
            parts
                .map(|part| part.iter().map(secs).sum())
                .fold(0.0, f64::max)
        };
        let (replicas, ranks) = (grid.replicas, grid.ranks());
        let mut time = StepTime::default();
        let mut responses = 0;
        for nodes in self.nodes() {
            let prompts = nodes.div_ceil(replicas);
            time.sampling_secs += slowest_part(&|rates| rates.sampling(prompts));
            let joint_actions = (nodes * self.joint_actions).div_ceil(ranks);
            time.scoring_secs += joint_actions as f64 * self.reward_secs;
            responses += nodes * self.samples;
        }
        let nodes: usize = self.nodes().sum();
        let per_epoch = (nodes / self.minibatch).max(1);
        let rounds = nodes.div_ceil(per_epoch).div_ceil(replicas);
        let gradient_steps = self.epochs * per_epoch;
        time.update_secs = gradient_steps as f64 * slowest_part(&|rates| rates.update(rounds));
        if ranks == 1 {
            return time;
        }
        // Gradients: each rank sends the others their shares, and later its own sums.
        let gradient_size = self.trained_weights * self.gradients.bytes() as u64;
        let gradient_bytes = 2 * (replicas - 1) as u64 * gradient_size / replicas as u64;
        let gradient_bytes = gradient_bytes * (agents * gradient_steps) as u64;
        // Texts and scores: every rank gets those of all others.
        let tokens = responses * self.response_tokens;
        let text_bytes = (rates.len() * tokens * BYTES_PER_TOKEN) as u64;
        let score_bytes = match replicas {
            1 => 0,
            _ => (agents * tokens * 2 * BYTES_PER_LOGPROB) as u64,
        };
        let received = gradient_bytes + text_bytes + score_bytes;
        // In each turn ranks agree on responses, outcomes and prompts that fit; then on the end of the step.
        let meetings = self.turns * 3 + 4 + agents * gradient_steps * (rounds + 1);
        let partners = (ranks - 1) as f64;
        time.communication_secs = received as f64 / network.bytes_per_sec
            + meetings as f64 * network.latency_secs * partners.max(1.0);
        time.bytes =
            ranks as u64 * (gradient_bytes + score_bytes) + (ranks as u64 - 1) * text_bytes;
        time
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATES: Rates = Rates {
        first_prompt: 3.0,
        another_prompt: 1.0,
        first_group: 5.0,
        another_group: 4.0,
    };

    const FREE: Network = Network {
        bytes_per_sec: f64::INFINITY,
        latency_secs: 0.0,
    };

    fn work() -> Work {
        Work {
            tasks: 4,
            joint_actions: 8,
            turns: 1,
            samples: 8,
            response_tokens: 64,
            minibatch: 4,
            epochs: 1,
            trained_weights: 1_000_000,
            gradients: SumFormat::F32,
            reward_secs: 0.5,
        }
    }

    fn time(parts: usize, replicas: usize) -> StepTime {
        work().on(Grid { parts, replicas }, &[RATES; 2], &FREE)
    }

    #[test]
    fn parts_divide_agents_and_replicas_divide_prompts_and_groups() {
        // 2 agents with 4 prompts and one gradient step of 4 groups each; 32 joint actions.
        let alone = time(1, 1);
        assert_eq!(
            (alone.sampling_secs, alone.update_secs),
            (2.0 * 6.0, 2.0 * 17.0)
        );
        assert_eq!(alone.scoring_secs, 16.0);
        let apart = time(2, 1);
        assert_eq!((apart.sampling_secs, apart.update_secs), (6.0, 17.0));
        assert_eq!(apart.scoring_secs, 8.0);
        let replicated = time(2, 2);
        assert_eq!(
            (replicated.sampling_secs, replicated.update_secs),
            (4.0, 9.0)
        );
        let twice = Work {
            epochs: 2,
            ..work()
        };
        let twice = twice.on(
            Grid {
                parts: 2,
                replicas: 1,
            },
            &[RATES; 2],
            &FREE,
        );
        assert_eq!((twice.sampling_secs, twice.update_secs), (6.0, 34.0));
        // An agent with longer prompts is waited for, unless it is on the same rank.
        let uneven = [
            RATES,
            Rates {
                first_prompt: 5.0,
                first_group: 1.0,
                ..RATES
            },
        ];
        let on = |parts| {
            let grid = Grid { parts, replicas: 1 };
            let time = work().on(grid, &uneven, &FREE);
            (time.sampling_secs, time.update_secs)
        };
        assert_eq!((on(1), on(2)), ((14.0, 30.0), (8.0, 17.0)));
        // Uneven shares: the slowest replica has two of four.
        assert_eq!(time(2, 3).update_secs, 9.0);
        assert_eq!((alone.bytes, alone.communication_secs), (0, 0.0));
    }

    #[test]
    fn gradients_travel_between_replicas_only() {
        let slow = Network {
            bytes_per_sec: 1e6,
            latency_secs: 0.0,
        };
        let bytes = |parts, replicas| {
            work()
                .on(Grid { parts, replicas }, &[RATES; 2], &slow)
                .bytes
        };
        assert!(bytes(2, 1) < 100_000, "{}", bytes(2, 1));
        // Half of the gradient once there and once back, on each of four ranks.
        assert!(
            (16_000_000..16_500_000).contains(&bytes(2, 2)),
            "{}",
            bytes(2, 2)
        );
        let rounded = Work {
            gradients: SumFormat::Bf16,
            ..work()
        };
        let grid = Grid {
            parts: 2,
            replicas: 2,
        };
        let rounded = rounded.on(grid, &[RATES; 2], &slow).bytes;
        assert!((8_000_000..8_500_000).contains(&rounded), "{rounded}");
        let secs = work()
            .on(
                Grid {
                    parts: 2,
                    replicas: 2,
                },
                &[RATES; 2],
                &slow,
            )
            .communication_secs;
        assert!((4.0..4.2).contains(&secs), "{secs}");
    }

    #[test]
    fn later_turns_have_a_node_per_joint_action() {
        let work = Work {
            turns: 2,
            joint_actions: 3,
            ..work()
        };
        let time = work.on(
            Grid {
                parts: 1,
                replicas: 1,
            },
            &[RATES; 2],
            &FREE,
        );
        assert_eq!(time.sampling_secs, 2.0 * (6.0 + 14.0));
        // 16 nodes in minibatches of 4.
        assert_eq!(time.update_secs, 2.0 * 4.0 * 17.0);
    }
}
