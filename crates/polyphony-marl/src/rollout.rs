//! Rollout: every agent answers every task several times, the environment scores the joint actions, and
//! each joint action whose episode continues begins another turn.
//!
//! All tasks are played together, turn after turn: [`open`] makes the nodes that wait for answers,
//! [`level`] samples the answers and scores them, and [`stage`] has the types that both need.

use std::{ops::Range, time::Instant};

use polyphony_episode::Environment;

use crate::{
    MarlError,
    config::TrainingConfig,
    stream::to_stream_key_field,
    tasks::Batch,
    team::Team,
    tree::{Node, RoleGroup, SamplingPlan},
};

mod level;
mod lines;
mod open;
mod stage;

pub(crate) use self::level::answer;
pub use self::lines::NodeLine;
use self::stage::{PlayedNode, RolloutContext};

/// The nodes of one rollout, and what was left out of it.
#[derive(Clone, Debug, Default)]
pub struct Rollout {
    /// One root node per task.
    pub roots: Vec<Node>,
    /// Tasks left out because a prompt did not fit.
    pub skipped_tasks: usize,
    /// Joint actions that would have continued if the next prompt had fitted.
    pub cut_episodes: usize,
    /// Seconds that the environment took to score.
    pub reward_secs: f64,
}

impl Rollout {
    /// All nodes of all turns, parents before children.
    pub fn all_nodes(&self) -> Vec<&Node> {
        self.roots.iter().flat_map(Node::nodes).collect()
    }

    /// The groups of some roles, node after node. An agent that plays these roles learns from them.
    pub fn groups_of(&self, roles: &[usize]) -> Vec<&RoleGroup> {
        let nodes = self.all_nodes().into_iter();
        let groups = nodes.flat_map(|node| roles.iter().map(|&role| &node.groups[role]));
        groups.collect()
    }

    /// The groups of all roles at every node, one slice per node, in the order of
    /// [`Rollout::all_nodes`].
    pub fn groups_mut(&mut self) -> Vec<&mut [RoleGroup]> {
        self.roots.iter_mut().flat_map(Node::groups_mut).collect()
    }

    /// Gives every response its advantage. `advantages` computes the advantages of a role's responses at a
    /// node.
    ///
    /// # Errors
    /// Those of `advantages`, and if it does not return one advantage per response.
    pub fn assign_advantages(
        &mut self,
        advantages: impl Fn(&Node, usize) -> Result<Vec<f64>, MarlError>,
    ) -> Result<(), MarlError> {
        let node_advantages = |node: &Node| {
            let roles = 0..node.groups.len();
            roles.map(|role| advantages(node, role)).collect()
        };
        let by_node = self.all_nodes().into_iter().map(node_advantages);
        let by_node = by_node.collect::<Result<Vec<_>, MarlError>>()?;
        self.set_advantages(by_node)
    }

    /// Gives every response its advantage, from a list by node, role and response. Nodes have the order of
    /// [`Rollout::all_nodes`].
    ///
    /// # Errors
    /// If there is not one advantage per response.
    pub fn set_advantages(&mut self, advantages: Vec<Vec<Vec<f64>>>) -> Result<(), MarlError> {
        let groups: Vec<&mut RoleGroup> = self.groups_mut().into_iter().flatten().collect();
        let by_group: Vec<Vec<f64>> = advantages.into_iter().flatten().collect();
        let fits = |(group, advantages): (&&mut RoleGroup, &Vec<f64>)| {
            group.samples.len() == advantages.len()
        };
        if groups.len() != by_group.len() || !groups.iter().zip(&by_group).all(fits) {
            return Err(MarlError::NoAdvantage);
        }
        for (group, advantages) in groups.into_iter().zip(by_group) {
            for (sample, advantage) in group.samples.iter_mut().zip(advantages) {
                sample.advantage = Some(advantage);
            }
        }
        Ok(())
    }

    /// The rollout as an algorithm sees it that learns for some of the roles: their groups, picks and rewards.
    pub(crate) fn of_roles(&self, roles: Range<usize>) -> Self {
        Self {
            roots: self
                .roots
                .iter()
                .map(|root| root.of_roles(&roles))
                .collect(),
            ..*self
        }
    }

    /// The groups of some roles, by node.
    pub(crate) fn groups_by_node(&self, roles: Range<usize>) -> Vec<Vec<RoleGroup>> {
        let nodes = self.all_nodes().into_iter();
        nodes
            .map(|node| node.groups[roles.clone()].to_vec())
            .collect()
    }

    /// Replaces the groups of some roles, by node.
    pub(crate) fn set_groups(&mut self, roles: Range<usize>, by_node: Vec<Vec<RoleGroup>>) {
        for (groups, of_node) in self.groups_mut().into_iter().zip(by_node) {
            for (group, new) in groups[roles.clone()].iter_mut().zip(of_node) {
                *group = new;
            }
        }
    }

    /// The completion tokens of all agents.
    pub fn completion_tokens(&self) -> usize {
        let groups = self.all_nodes().into_iter().flat_map(|node| &node.groups);
        groups.map(RoleGroup::completion_tokens).sum()
    }
}

/// Samples and scores all turns of all tasks. `on_tokens` is called repeatedly with the number of tokens
/// sampled since the last call.
///
/// # Errors
/// If the environment fails, a prompt does not fit and may not be skipped, generation fails, or the index of
/// a step, task, turn or joint action is too large for the key of a random stream.
pub fn rollout(
    team: &Team,
    environment: &dyn Environment,
    batch: Batch<'_>,
    plan: &SamplingPlan,
    config: &TrainingConfig,
    step: usize,
    on_tokens: &mut dyn FnMut(usize),
) -> Result<Rollout, MarlError> {
    if plan.samples == 0 {
        return Ok(Rollout::default());
    }
    let step: u32 = to_stream_key_field("steps", step)?;
    let context = RolloutContext {
        team,
        environment,
        plan,
        config,
        step,
    };
    let mut waiting = context.roots(batch)?;
    let mut rollout = Rollout {
        skipped_tasks: waiting.left_out,
        ..Rollout::default()
    };
    let mut levels = Vec::new();
    let horizon = environment.horizon().get();
    for turn in 0..horizon {
        let samples = context.sample(&waiting.nodes, turn, on_tokens)?;
        let start = Instant::now();
        let level = context.score(waiting.nodes, samples, turn)?;
        rollout.reward_secs += start.elapsed().as_secs_f64();
        let continues = |played: &&PlayedNode<'_>| played.next.iter().any(Option::is_some);
        if turn + 1 == horizon
            && let Some(unfinished) = level.iter().find(continues)
        {
            return Err(MarlError::BeyondHorizon {
                task: unfinished.node.task.clone(),
                horizon,
            });
        }
        waiting = context.children(&level)?;
        rollout.cut_episodes += waiting.left_out;
        levels.push(level);
        if waiting.nodes.is_empty() {
            break;
        }
    }
    rollout.roots = assemble(levels);
    Ok(rollout)
}

/// Attaches the nodes of every level to their parents in the level above; returns the roots.
fn assemble(mut levels: Vec<Vec<PlayedNode<'_>>>) -> Vec<Node> {
    while let Some(level) = levels.pop() {
        let Some(above) = levels.last_mut() else {
            return level.into_iter().map(|played| played.node).collect();
        };
        for PlayedNode { open, node, .. } in level {
            if let Some((parent, branch)) = open.parent {
                above[parent].node.branches[branch].child = Some(node);
            }
        }
    }
    Vec::new()
}

#[cfg(test)]
mod tests;
