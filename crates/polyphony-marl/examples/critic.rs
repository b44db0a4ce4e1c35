//! An actor-critic: each agent has a critic of its own that learns what to expect of a history, and
//! its expectation is the baseline.
//!
//! Rollout, returns and updates are the crate's; the critic is added beside them. With it a group of
//! responses is not needed: the four that are sampled at each node are never compared
//! with one another.
//! Two copies of a tiny model with random weights learn to hand on what one of them saw.
//!
//! `cargo run -p polyphony-marl --example critic`
#![allow(clippy::print_stdout, reason = "an example shows its result")]

#[path = "games_team/mod.rs"]
mod games_team;
#[path = "../../polyphony-episode/examples/games/relay.rs"]
mod relay;

use std::{collections::HashMap, error::Error};

use games_team::{number, rollout_config, team, update_config};
use polyphony_episode::Task;
use polyphony_marl::{
    Algorithm, Credit, IndexedTask, JudgedGroup, Node, Updates, credits, mean_return, returns,
    rollout, update,
};
use relay::Relay;

/// Expects of a history what its tokens have brought so far: a linear regression on their counts,
/// learned by gradient descent on the squared error.
#[derive(Default)]
struct Critic {
    weights: HashMap<u32, f64>,
    bias: f64,
}

impl Critic {
    const LEARNING_RATE: f64 = 0.02;

    fn value(&self, history: &[u32]) -> f64 {
        let known = history.iter().filter_map(|token| self.weights.get(token));
        self.bias + known.sum::<f64>()
    }

    fn learn(&mut self, history: &[u32], credit: f64) {
        let step = Self::LEARNING_RATE * (credit - self.value(history));
        self.bias += step;
        for token in history {
            *self.weights.entry(*token).or_default() += step;
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let game = Relay::new();
    let mut agents = team(&game)?;
    let mut critics: Vec<Critic> = agents.iter().map(|_| Critic::default()).collect();
    let tasks = ["low", "high"].map(|secret| Task::new(secret, [("secret", secret)]));
    let tasks = [0, 1].map(|index| IndexedTask {
        index,
        task: &tasks[index],
    });
    let (algorithm, updates) = (Algorithm::default(), Updates::default());
    for step in 0..120 {
        let played = rollout(
            &agents,
            &game,
            &tasks,
            &rollout_config(4, step),
            &mut |_| (),
        )?;
        let nodes: Vec<&Node> = played.nodes.iter().flat_map(Node::nodes).collect();
        for (role, agent) in agents.iter_mut().enumerate() {
            let critic = &mut critics[role];
            let mut groups = Vec::new();
            for node in &nodes {
                let group = node.groups[role].clone();
                let history = &group.history.tokens;
                let credits = credits(node, role, &returns(node, 1.0), Credit::Mean);
                // What was expected before the critic has seen how it went.
                let expected = critic.value(history);
                let advantages = credits.iter().map(|credit| credit - expected).collect();
                credits
                    .iter()
                    .for_each(|credit| critic.learn(history, *credit));
                groups.push(JudgedGroup { group, advantages });
            }
            update(
                agent,
                &groups,
                &update_config(&algorithm, &updates, groups.len()),
            )?;
        }
        if (step + 1) % 20 == 0 {
            println!(
                "step {:>3}: return {:.2}",
                step + 1,
                mean_return(&played.nodes, 1.0)
            );
        }
    }
    Ok(())
}
