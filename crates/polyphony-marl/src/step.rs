//! One training step, top down:
//! rollout → rewards → returns → advantages → log-probabilities → loss → update → report.

use std::time::Instant;

use polyphony_episode::Environment;
use polyphony_model::StreamKey;
use rayon::prelude::*;

use crate::{
    MarlError,
    advantage::advantages,
    agent::{Agent, player, roles_of},
    config::{Algorithm, Kl, Updates},
    report::StepReport,
    returns::{credits, penalized_returns, returns},
    rollout::{IndexedTask, ResponseConfig, Rollout, RolloutConfig, rollout},
    tree::Node,
    update::{JudgedGroup, UpdateConfig, UpdateReport, score, update},
};

/// Everything that a step is told besides team and tasks.
#[derive(Clone, Debug)]
pub struct StepConfig {
    /// What is sampled, and what is learned from it.
    pub algorithm: Algorithm,
    /// How weights change.
    pub updates: Updates,
    /// How agents answer.
    pub responses: ResponseConfig,
    /// Steps of the whole run, over which the learning rate follows its schedule.
    pub steps: usize,
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

/// Runs one step: plays `tasks`, adds every node to the agents' buffers, and updates the agents whose
/// buffers are full.
///
/// There is one agent for each of the environment's roles, or one that plays them all. Where a
/// divergence counts, agents need their [reference](Agent::with_reference).
///
/// # Errors
/// See [`MarlError`]. Other agents may have been updated, and the failing one has the weights of its
/// last gradient step.
pub fn train_step(
    agents: &mut [Agent],
    environment: &dyn Environment,
    tasks: &[IndexedTask<'_>],
    config: &StepConfig,
    on_progress: &mut dyn FnMut(Progress),
) -> Result<Step, MarlError> {
    let roles = environment.roles().len();
    config.validate(agents, roles, environment.horizon().get())?;
    let start = Instant::now();
    let mut rollout = rollout(
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
    score_references(agents, &mut rollout.nodes, config)?;
    let nodes: Vec<&Node> = rollout.nodes.iter().flat_map(Node::nodes).collect();
    for index in 0..agents.len() {
        let own: Vec<usize> = roles_of(index, agents.len(), roles).collect();
        let judged = judge(&nodes, &own, &config.algorithm);
        agents[index].buffer.extend(judged);
    }
    let order = Order::of(agents);
    let updates = update_full(agents, roles, config, order, on_progress)?;
    let update_secs = start.elapsed().as_secs_f64();

    let report = StepReport::new(environment, &rollout, &updates, config);
    let report = report.timed(&rollout, rollout_secs, update_secs);
    Ok(Step { report, rollout })
}

/// Lets every agent's reference say how likely the agent's responses are, where there is one.
fn score_references(
    agents: &[Agent],
    nodes: &mut [Node],
    config: &StepConfig,
) -> Result<(), MarlError> {
    let temperature = config.responses.sampling.scoring_temperature();
    for groups in nodes.iter_mut().flat_map(Node::groups_mut) {
        for (role, group) in groups.iter_mut().enumerate() {
            let Some(reference) = &agents[player(agents.len(), role)].reference else {
                continue;
            };
            let logprobs = score(reference, group, temperature)?;
            let mut rest = logprobs.as_slice();
            for sample in &mut group.samples {
                let own;
                (own, rest) = rest.split_at(sample.response.tokens.len());
                sample.reference_logprobs = own.to_vec();
            }
        }
    }
    Ok(())
}

/// The groups of the given roles at every node, with the advantage of each response.
pub(crate) fn judge(nodes: &[&Node], roles: &[usize], algorithm: &Algorithm) -> Vec<JudgedGroup> {
    let pairs = nodes
        .iter()
        .flat_map(|&node| roles.iter().map(move |&role| (node, role)));
    pairs
        .map(|(node, role)| JudgedGroup {
            group: node.groups[role].clone(),
            advantages: node_advantages(node, role, algorithm),
        })
        .collect()
}

/// The advantage of each of a role's responses at a node.
pub(crate) fn node_advantages(node: &Node, role: usize, algorithm: &Algorithm) -> Vec<f64> {
    let returns = match algorithm.kl {
        Kl::Reward { coefficient } => {
            penalized_returns(node, role, algorithm.discount, coefficient)
        }
        Kl::Off | Kl::Loss { .. } => returns(node, algorithm.discount),
    };
    let credits = credits(node, role, &returns, algorithm.credit);
    advantages(&credits, algorithm.baseline, algorithm.advantage_scale)
}

use Order::{AtOnce, InTurn};

/// In which order agents are updated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    /// One after the other.
    InTurn,
    /// All together.
    AtOnce,
}

impl Order {
    /// At once where there are several agents and no two of them share a device.
    fn of(agents: &[Agent]) -> Self {
        let devices: Vec<_> = agents.iter().map(|agent| agent.model.device()).collect();
        let shares = |(index, device)| devices[..index].contains(device);
        match agents.len() == 1 || devices.iter().enumerate().any(shares) {
            true => InTurn,
            false => AtOnce,
        }
    }
}

/// Updates the agents whose buffers are full. Returns one report an agent; that of an agent which
/// still collects says nothing but its learning rate.
fn update_full(
    agents: &mut [Agent],
    roles: usize,
    config: &StepConfig,
    order: Order,
    on_progress: &mut dyn FnMut(Progress),
) -> Result<Vec<UpdateReport>, MarlError> {
    let team = agents.len();
    let update_one = |index: usize, agent: &mut Agent| {
        let played = roles_of(index, team, roles).count();
        let config = config.update(agent, played);
        if agent.buffer.len() < config.updates.buffer * played {
            return Ok(UpdateReport {
                learning_rate: config.learning_rate,
                ..UpdateReport::default()
            });
        }
        let buffer = std::mem::take(&mut agent.buffer);
        update(agent, &buffer, &config)
    };
    if order == InTurn {
        let in_turn = agents.iter_mut().enumerate().map(|(index, agent)| {
            on_progress(Progress::Updating(index));
            update_one(index, agent)
        });
        return in_turn.collect();
    }
    (0..team).for_each(|index| on_progress(Progress::Updating(index)));
    // On rayon's own threads: one of them may be the caller, and if it waited for others that it does not
    // work for, they would wait for it where there is no other.
    let at_once = agents.par_iter_mut().enumerate();
    at_once
        .map(|(index, agent)| update_one(index, agent))
        .collect()
}

impl StepConfig {
    /// Refuses what cannot work, before anything is sampled.
    fn validate(&self, agents: &[Agent], roles: usize, horizon: usize) -> Result<(), MarlError> {
        self.algorithm.validate()?;
        self.algorithm.validate_for(roles, horizon)?;
        self.updates.validate()?;
        self.updates.validate_with(&self.algorithm)?;
        let lacks = |agent: &&Agent| self.algorithm.kl != Kl::Off && agent.reference.is_none();
        match agents.iter().find(lacks) {
            Some(agent) => Err(MarlError::NoReference {
                agent: agent.name.clone(),
            }),
            None => Ok(()),
        }
    }

    /// How responses are sampled.
    fn rollout(&self) -> RolloutConfig {
        RolloutConfig {
            samples: self.algorithm.samples,
            joint_mode: self.algorithm.joint_mode,
            termination_threshold: self.algorithm.termination_threshold,
            responses: self.responses.clone(),
            key: self.key,
        }
    }

    /// How an agent that plays `roles` roles learns.
    fn update(&self, agent: &Agent, roles: usize) -> UpdateConfig<'_> {
        let step = self.key.step as usize;
        UpdateConfig {
            algorithm: &self.algorithm,
            updates: &self.updates,
            learning_rate: self.updates.rate(&agent.name, step, self.steps),
            minibatch: self.updates.minibatch * roles,
            temperature: self.responses.sampling.scoring_temperature(),
            max_new_tokens: self.responses.max_new_tokens,
        }
    }
}

#[cfg(test)]
mod tests;
