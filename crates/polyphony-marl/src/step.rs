//! One training step, top down:
//! rollout → rewards → returns → advantages → log-probabilities → loss → update → report.

use std::time::Instant;

use polyphony_episode::Environment;

use crate::{
    MarlError,
    advantage::advantages,
    agent::Agent,
    config::{Algorithm, Updates},
    report::StepReport,
    returns::{credits, returns},
    rollout::{IndexedTask, Rollout, RolloutConfig, rollout},
    tree::Node,
    update::{JudgedGroup, UpdateConfig, UpdateReport, update},
};

/// Everything that a step is told besides team and tasks.
#[derive(Clone, Debug)]
pub struct StepConfig {
    /// How responses are sampled.
    pub rollout: RolloutConfig,
    /// What is learned from them.
    pub algorithm: Algorithm,
    /// How weights change.
    pub updates: Updates,
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
    let start = Instant::now();
    let rollout = rollout(agents, environment, tasks, &config.rollout, &mut |tokens| {
        on_progress(Progress::Sampled(tokens));
    })?;
    let rollout_secs = start.elapsed().as_secs_f64();

    let start = Instant::now();
    let nodes: Vec<&Node> = rollout.nodes.iter().flat_map(Node::nodes).collect();
    let mut updates = Vec::with_capacity(agents.len());
    for (index, agent) in agents.iter_mut().enumerate() {
        on_progress(Progress::Updating(index));
        let buffer = judge(&nodes, index, &config.algorithm);
        let report = update(agent, &buffer, &config.update())?;
        updates.push((
            buffer
                .iter()
                .map(|judged| judged.advantages.clone())
                .collect(),
            report,
        ));
    }
    let update_secs = start.elapsed().as_secs_f64();

    let report = StepReport::new(agents, environment, &rollout, updates, config)
        .timed(rollout_secs, update_secs);
    Ok(Step { report, rollout })
}

/// An agent's group at every node, with the advantage of each response.
fn judge<'a>(nodes: &[&'a Node], agent: usize, algorithm: &Algorithm) -> Vec<JudgedGroup<'a>> {
    let judge_node = |node: &&'a Node| {
        let credits = credits(node, agent, &returns(node, algorithm.discount));
        let advantages = advantages(&credits, algorithm.baseline, algorithm.advantage_scale);
        JudgedGroup {
            group: &node.groups[agent],
            advantages,
        }
    };
    nodes.iter().map(judge_node).collect()
}

impl StepConfig {
    fn update(&self) -> UpdateConfig<'_> {
        UpdateConfig {
            algorithm: &self.algorithm,
            updates: &self.updates,
            temperature: self.rollout.sampling.scoring_temperature(),
            max_new_tokens: self.rollout.max_new_tokens,
        }
    }
}

/// What an agent's update gave: the advantages of each of its groups, and the update's report.
pub(crate) type AgentUpdate = (Vec<Vec<f64>>, UpdateReport);

#[cfg(test)]
mod tests;
