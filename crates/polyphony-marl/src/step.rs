//! One training step, top down:
//! rollout → rewards → returns → advantages → log-probabilities → loss → update → report.

use std::time::Instant;

use polyphony_episode::Environment;
use polyphony_model::{Sampling, StreamKey};

use crate::{
    MarlError,
    advantage::advantages,
    agent::{Agent, roles_of},
    config::{Algorithm, Updates},
    report::StepReport,
    returns::{credits, returns},
    rollout::{IndexedTask, LongPrompts, Rollout, RolloutConfig, RolloutWeights, rollout},
    tree::Node,
    update::{JudgedGroup, UpdateConfig, update},
};

/// Everything that a step is told besides team and tasks.
#[derive(Clone, Debug)]
pub struct StepConfig {
    /// What is sampled, and what is learned from it.
    pub algorithm: Algorithm,
    /// How weights change.
    pub updates: Updates,
    /// How tokens are drawn.
    pub sampling: Sampling,
    /// The most tokens of a response.
    pub max_new_tokens: usize,
    /// What weights are made of while responses are sampled.
    pub rollout_weights: RolloutWeights,
    /// What happens to prompts that do not fit.
    pub long_prompts: LongPrompts,
    /// Seed and step of the random numbers; the rest of the key is filled in.
    pub key: StreamKey,
}

/// A step's report and the rollout that it learned from.
#[derive(Clone, Debug)]
pub struct Step {
    /// What happened, as numbers.
    pub report: StepReport,
    /// What was said and earned.
    pub rollout: Rollout,
}

/// What a long step tells while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// So many tokens were sampled.
    Sampled(usize),
    /// This agent is being updated.
    Updating(usize),
}

/// Runs one step: each agent's buffer is the nodes of `tasks`.
///
/// There is one agent for each of the environment's roles, or one that plays them all.
///
/// # Errors
/// See [`MarlError`]. Agents before the failing one have been updated, and the failing one has the
/// weights of its last gradient step.
pub fn train_step(
    agents: &mut [Agent],
    environment: &dyn Environment,
    tasks: &[IndexedTask<'_>],
    config: &StepConfig,
    on_progress: &mut dyn FnMut(Progress),
) -> Result<Step, MarlError> {
    config.algorithm.validate()?;
    config.updates.validate()?;
    let start = Instant::now();
    let rollout = rollout(
        agents,
        environment,
        tasks,
        &config.rollout(),
        &mut |tokens| {
            on_progress(Progress::Sampled(tokens));
        },
    )?;
    let rollout_secs = start.elapsed().as_secs_f64();

    let start = Instant::now();
    let nodes: Vec<&Node> = rollout.nodes.iter().flat_map(Node::nodes).collect();
    let team = agents.len();
    let mut updates = Vec::with_capacity(team);
    for (index, agent) in agents.iter_mut().enumerate() {
        on_progress(Progress::Updating(index));
        let roles: Vec<usize> = roles_of(index, team, environment.roles().len()).collect();
        let buffer = judge(&nodes, &roles, &config.algorithm);
        updates.push(update(agent, &buffer, &config.update(roles.len()))?);
    }
    let update_secs = start.elapsed().as_secs_f64();

    let report =
        StepReport::new(environment, &rollout, &updates, config).timed(rollout_secs, update_secs);
    Ok(Step { report, rollout })
}

/// The groups of the given roles at every node, with the advantage of each response.
fn judge<'a>(nodes: &[&'a Node], roles: &[usize], algorithm: &Algorithm) -> Vec<JudgedGroup<'a>> {
    let pairs = nodes
        .iter()
        .flat_map(|&node| roles.iter().map(move |&role| (node, role)));
    pairs
        .map(|(node, role)| JudgedGroup {
            group: &node.groups[role],
            advantages: node_advantages(node, role, algorithm),
        })
        .collect()
}

/// The advantage of each of a role's responses at a node.
pub(crate) fn node_advantages(node: &Node, role: usize, algorithm: &Algorithm) -> Vec<f64> {
    let credits = credits(node, role, &returns(node, algorithm.discount));
    advantages(&credits, algorithm.baseline, algorithm.advantage_scale)
}

impl StepConfig {
    /// How responses are sampled.
    fn rollout(&self) -> RolloutConfig {
        RolloutConfig {
            samples: self.algorithm.samples,
            joint_mode: self.algorithm.joint_mode,
            sampling: self.sampling.clone(),
            max_new_tokens: self.max_new_tokens,
            weights: self.rollout_weights,
            long_prompts: self.long_prompts,
            key: self.key,
        }
    }

    /// How an agent that plays `roles` roles learns.
    fn update(&self, roles: usize) -> UpdateConfig<'_> {
        UpdateConfig {
            algorithm: &self.algorithm,
            updates: &self.updates,
            minibatch: self.updates.minibatch * roles,
            temperature: self.sampling.scoring_temperature(),
            max_new_tokens: self.max_new_tokens,
        }
    }
}

#[cfg(test)]
mod tests;
