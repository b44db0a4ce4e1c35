//! The rollout tree: what the agents saw, said and earned.

use polyphony_episode::{FinishReason, JointAction, Observation, Response, Reward};
use serde::{Deserialize, Serialize};

/// Everything that an agent has seen and said so far, as the token ids that its model reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// The token ids, ready to be continued by a response.
    pub tokens: Vec<u32>,
}

/// A response with what the update needs to know of its sampling.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// The text, the token ids and why it ended.
    pub response: Response,
    /// The natural log-probability of each token when it was drawn.
    pub logprobs: Vec<f32>,
    /// The same under the policy that the agent started from; empty where no reference is kept.
    pub reference_logprobs: Vec<f32>,
}

impl Sample {
    /// Whether the length limit cut the response off.
    pub fn is_truncated(&self) -> bool {
        self.response.finish == FinishReason::Length
    }

    /// How far the policy has strayed from its reference on this response, in nats: the estimator
    /// k1, `Σ_τ (ℓ_τ − ℓ_τ^ref)`. 0 where no reference is kept.
    pub fn divergence(&self) -> f64 {
        let pairs = self.logprobs.iter().zip(&self.reference_logprobs);
        pairs
            .map(|(&own, &reference)| f64::from(own) - f64::from(reference))
            .sum()
    }
}

/// One agent's share of a node: its history and the responses that it sampled from it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AgentGroup {
    /// What the agent is told at this turn.
    pub observation: Observation,
    /// What its model reads.
    pub history: History,
    /// The `G` responses.
    pub samples: Vec<Sample>,
}

/// One joint action of a node.
#[derive(Clone, Debug, PartialEq)]
pub struct Branch {
    /// For each agent the index of its response in its group.
    pub picks: Vec<usize>,
    /// What the joint action earned.
    pub reward: Reward,
    /// The next turn, if the episode goes on.
    pub child: Option<Node>,
}

/// One turn of a task: every agent's group, and the joint actions made of them.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// The task's identifier.
    pub task: String,
    /// The turn, counted from 0.
    pub turn: usize,
    /// One group an agent.
    pub groups: Vec<AgentGroup>,
    /// The joint actions, scored.
    pub branches: Vec<Branch>,
}

impl Node {
    /// The joint action of a branch.
    pub fn joint_action(&self, picks: &[usize]) -> JointAction {
        let responses = picks.iter().zip(&self.groups);
        JointAction::new(
            responses
                .map(|(&pick, group)| group.samples[pick].response.clone())
                .collect(),
        )
    }

    /// This node and all below it, a node before those below it.
    pub fn nodes(&self) -> Vec<&Node> {
        let mut nodes = vec![self];
        let children = self
            .branches
            .iter()
            .filter_map(|branch| branch.child.as_ref());
        children.for_each(|child| nodes.extend(child.nodes()));
        nodes
    }

    /// The agents' groups at this node and all below it.
    pub(crate) fn groups_mut(&mut self) -> Vec<&mut [AgentGroup]> {
        let mut groups = vec![self.groups.as_mut_slice()];
        let children = self
            .branches
            .iter_mut()
            .filter_map(|branch| branch.child.as_mut());
        children.for_each(|child| groups.extend(child.groups_mut()));
        groups
    }
}
