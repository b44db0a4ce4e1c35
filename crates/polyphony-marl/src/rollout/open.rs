//! Nodes that the agents have not answered yet: what each role reads, and what its model reads.

use polyphony_episode::{Role, Task};

use super::stage::{OpenNode, PlayedNode, RolloutContext};
use crate::{
    MarlError, agent::Agent, checks::check_observations, stream::to_stream_key_field, tasks::Batch,
    tree::History,
};

/// The nodes of a turn that can be played, and the number of those that cannot.
#[derive(Default)]
pub(super) struct OpenNodes<'a> {
    pub(super) nodes: Vec<OpenNode<'a>>,
    pub(super) left_out: usize,
}

impl<'a> OpenNodes<'a> {
    /// Adds a node, or counts one whose prompts do not fit.
    fn add(&mut self, node: Option<OpenNode<'a>>) {
        match node {
            Some(node) => self.nodes.push(node),
            None => self.left_out += 1,
        }
    }
}

impl RolloutContext<'_> {
    /// The first turn of every task.
    pub(super) fn roots<'b>(&self, batch: Batch<'b>) -> Result<OpenNodes<'b>, MarlError> {
        let mut open_nodes = OpenNodes::default();
        for batch_task in batch.first_turns(self.team, self.environment, self.config)? {
            let index = to_stream_key_field("tasks", batch_task.index)?;
            let task = batch_task.task;
            open_nodes.add(batch_task.first.map(|first| OpenNode {
                task,
                index,
                parent: None,
                branch: 0,
                past: Vec::new(),
                observations: first.observations,
                histories: first.histories,
            }));
        }
        Ok(open_nodes)
    }

    /// The next turn after every joint action that continues.
    pub(super) fn children<'b>(
        &self,
        level: &[PlayedNode<'b>],
    ) -> Result<OpenNodes<'b>, MarlError> {
        let mut open_nodes = OpenNodes::default();
        for child in self
            .team
            .ranks()
            .keep_fitting(self.children_of_rank(level))?
        {
            open_nodes.add(child);
        }
        Ok(open_nodes)
    }

    /// The next turn after every joint action that continues; `None` if the prompt of a role of this rank does not
    /// fit.
    fn children_of_rank<'b>(
        &self,
        level: &[PlayedNode<'b>],
    ) -> Result<Vec<Option<OpenNode<'b>>>, MarlError> {
        let mut children = Vec::new();
        for (parent, PlayedNode { open, node, next }) in level.iter().enumerate() {
            for (index, (branch, observations)) in node.branches.iter().zip(next).enumerate() {
                let Some(observations) = observations else {
                    continue;
                };
                let (roles, turn) = (self.environment.roles(), node.turn + 1);
                check_observations(roles, open.task, turn, observations)?;
                let histories = self.histories(open.task, |agent, role, index| {
                    let group = &node.groups[index];
                    let answer = &group.samples[branch.picks[index]].response;
                    let codec = &agent.codec;
                    codec.next_history(role, &group.history, answer, &observations[index])
                });
                let mut past = open.past.clone();
                past.push(node.turn_with(&branch.picks));
                let histories = self.config.long_prompts.allow(histories)?;
                let branch = branch_number(open.branch, node.branches.len(), index)?;
                children.push(histories.map(|histories| OpenNode {
                    task: open.task,
                    index: open.index,
                    parent: Some((parent, index)),
                    branch,
                    past,
                    observations: observations.clone(),
                    histories,
                }));
            }
        }
        Ok(children)
    }

    /// The history of each role of this rank, if all of them leave room for a response.
    fn histories(
        &self,
        task: &Task,
        history: impl Fn(&Agent, &Role, usize) -> Result<History, MarlError>,
    ) -> Result<Vec<History>, MarlError> {
        let checked_history = |(index, role): (usize, &Role)| {
            let Some(agent) = self.team.agent_of(index) else {
                return Ok(History::default());
            };
            let history = history(agent, role, index)?;
            agent.check_room(&task.id, role, &history, self.config.max_new_tokens)?;
            Ok(history)
        };
        let roles = self.environment.roles().iter().enumerate();
        roles.map(checked_history).collect()
    }
}

/// The number of a joint action among all that are possible at its turn: `parent * joint_actions + index`.
/// `parent` is the number of the joint action that led to its node, `joint_actions` is the number of joint
/// actions per node, and `index` is the joint action's index at its node.
fn branch_number(parent: u32, joint_actions: usize, index: usize) -> Result<u32, MarlError> {
    let number = (parent as usize)
        .checked_mul(joint_actions)
        .and_then(|first| first.checked_add(index));
    to_stream_key_field("joint actions of a task", number.unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_branch_without_a_number_is_an_error() {
        assert_eq!(branch_number(3, 4, 2).unwrap(), 14);
        assert_eq!(branch_number(65_535, 65_536, 65_535).unwrap(), u32::MAX);
        for (parent, joint_actions) in [(65_536, 65_536), (u32::MAX, usize::MAX)] {
            let message = branch_number(parent, joint_actions, 0)
                .unwrap_err()
                .to_string();
            assert!(message.contains("joint actions of a task"), "{message}");
        }
    }
}
