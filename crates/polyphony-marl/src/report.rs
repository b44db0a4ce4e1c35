//! What a step did, as numbers. `docs/metrics.md` has each one's formula.

use polyphony_episode::Environment;

use crate::{
    advantage::{standard_deviation, teaches_nothing},
    agent::player,
    config::Algorithm,
    returns::returns,
    rollout::Rollout,
    step::{StepConfig, node_advantages},
    tree::{Node, Sample},
    update::UpdateReport,
};

/// One step's figures. Means are NaN where there is nothing to average: a step whose tasks were all
/// left out.
#[derive(Clone, Debug, PartialEq)]
pub struct StepReport {
    /// The mean return over the joint actions of the first turn.
    pub mean_return: f64,
    /// The mean of every part of the reward over the same joint actions.
    pub parts: Vec<(&'static str, f64)>,
    /// Tasks left out since a prompt did not fit.
    pub skipped_tasks: usize,
    /// Tokens that all agents sampled.
    pub sampled_tokens: usize,
    /// One report a role.
    pub agents: Vec<AgentReport>,
    /// What depends on clocks.
    pub timing: Timing,
}

/// The figures of one role; its update is that of the agent that plays it.
#[derive(Clone, Debug, PartialEq)]
pub struct AgentReport {
    /// The role's name.
    pub name: String,
    /// The mean over groups of the standard deviation of their advantages.
    pub advantage_spread: f64,
    /// The share of groups whose advantages all vanish.
    pub zero_advantage_share: f64,
    /// The policy's entropy in nats a token, estimated as minus the mean log-probability of the
    /// sampled tokens.
    pub entropy: f64,
    /// Tokens of a response, on average.
    pub response_tokens: f64,
    /// The share of responses that the length limit cut.
    pub truncated_share: f64,
    /// What the update did.
    pub update: UpdateReport,
}

/// Durations and speeds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Timing {
    /// Seconds of rollout and scoring.
    pub rollout_secs: f64,
    /// Seconds of all agents' updates.
    pub update_secs: f64,
    /// Sampled tokens a second of rollout.
    pub tokens_per_sec: f64,
}

impl StepReport {
    /// `updates` has one report an agent.
    pub(crate) fn new(
        environment: &dyn Environment,
        rollout: &Rollout,
        updates: &[UpdateReport],
        config: &StepConfig,
    ) -> Self {
        let algorithm = &config.algorithm;
        let agents = environment.roles().iter().enumerate().map(|(role, named)| {
            let update = &updates[player(updates.len(), role)];
            AgentReport::new(&named.name, role, &rollout.nodes, algorithm, update)
        });
        Self {
            mean_return: mean_return(&rollout.nodes, algorithm.discount),
            parts: mean_parts(environment, &rollout.nodes),
            skipped_tasks: rollout.skipped_tasks,
            sampled_tokens: rollout.sampled_tokens(),
            agents: agents.collect(),
            timing: Timing::default(),
        }
    }

    pub(crate) fn timed(self, rollout_secs: f64, update_secs: f64) -> Self {
        let tokens_per_sec = self.sampled_tokens as f64 / rollout_secs;
        Self {
            timing: Timing {
                rollout_secs,
                update_secs,
                tokens_per_sec,
            },
            ..self
        }
    }
}

/// The arithmetic mean; NaN of nothing.
fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// The mean return over all joint actions of the given nodes; NaN of none.
pub fn mean_return(nodes: &[Node], discount: f64) -> f64 {
    mean(
        &nodes
            .iter()
            .flat_map(|node| returns(node, discount))
            .collect::<Vec<_>>(),
    )
}

/// The mean of each part of the reward over all joint actions of the given nodes; a joint action
/// without a part counts as 0. NaN of no joint actions.
pub fn mean_parts(environment: &dyn Environment, nodes: &[Node]) -> Vec<(&'static str, f64)> {
    let mean_part = |part: &&'static str| {
        let branches = nodes.iter().flat_map(|node| &node.branches);
        let values: Vec<f64> = branches
            .map(|branch| branch.reward.part(part).unwrap_or(0.0))
            .collect();
        (*part, mean(&values))
    };
    environment.reward_parts().iter().map(mean_part).collect()
}

impl AgentReport {
    fn new(
        name: &str,
        role: usize,
        nodes: &[Node],
        algorithm: &Algorithm,
        update: &UpdateReport,
    ) -> Self {
        let nodes: Vec<&Node> = nodes.iter().flat_map(Node::nodes).collect();
        let samples = nodes.iter().flat_map(|node| &node.groups[role].samples);
        let samples: Vec<&Sample> = samples.collect();
        let logprobs: Vec<f64> = samples
            .iter()
            .flat_map(|s| &s.logprobs)
            .map(|&l| f64::from(l))
            .collect();
        let over_samples = |f: fn(&Sample) -> f64| {
            mean(&samples.iter().map(|sample| f(sample)).collect::<Vec<_>>())
        };
        let advantages = nodes
            .iter()
            .map(|node| node_advantages(node, role, algorithm));
        let advantages: Vec<Vec<f64>> = advantages.collect();
        let over_groups = |f: fn(&[f64]) -> f64| {
            mean(&advantages.iter().map(|group| f(group)).collect::<Vec<_>>())
        };
        Self {
            name: name.to_owned(),
            advantage_spread: over_groups(standard_deviation),
            zero_advantage_share: over_groups(|group| f64::from(u8::from(teaches_nothing(group)))),
            entropy: -mean(&logprobs),
            response_tokens: over_samples(|sample| sample.response.tokens.len() as f64),
            truncated_share: over_samples(|sample| f64::from(u8::from(sample.is_truncated()))),
            update: update.clone(),
        }
    }
}
