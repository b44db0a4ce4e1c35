//! The rollout tree: what the agents read, answered and earned.

use std::{ops::Range, sync::Arc};

use polyphony_episode::{FinishReason, JointAction, Observation, Response, Reward, Turn};
use serde::{Deserialize, Serialize};

use crate::config::{ConfigError, check};

/// How the roles' responses at a node are combined into joint actions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum JointMode {
    /// Joint action `g` consists of each role's `g`-th response, so a node has `G` joint actions.
    #[default]
    Aligned,
    /// Every combination of responses is a joint action, so a node has `G^n` of them for `n` roles.
    Cross,
}

/// What an algorithm samples in a step, which determines the tree of each task.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SamplingPlan {
    /// Responses of each role at a node, `G`. With 0 nothing is sampled in this step, and the algorithm
    /// learns from what it has stored.
    pub samples: usize,
    /// How the agents' responses are combined into joint actions.
    pub joint_mode: JointMode,
    /// An episode ends at a node whose joint actions earn more than this on average.
    pub termination_threshold: Option<f64>,
    /// The discount `γ` of later turns' rewards, for the returns that are reported.
    pub discount: f64,
}

/// The maximum number of responses to one prompt. More must be a mistake.
pub const MAX_SAMPLES: usize = 4096;

/// The maximum number of joint actions at the last turn of a task's tree. More must be a mistake.
pub const MAX_JOINT_ACTIONS: usize = 1 << 16;

impl SamplingPlan {
    /// The number of joint actions of a node, for a team of this many roles; `None` if it overflows.
    pub fn joint_actions(&self, roles: usize) -> Option<usize> {
        match self.joint_mode {
            JointMode::Aligned => Some(self.samples),
            JointMode::Cross => self.samples.checked_pow(u32::try_from(roles).ok()?),
        }
    }

    /// Checks that a task's tree can be played by this many roles over this many turns.
    ///
    /// # Errors
    /// If its last turn would have more joint actions than [`MAX_JOINT_ACTIONS`].
    pub fn validate_for(&self, roles: usize, turns: usize) -> Result<(), ConfigError> {
        let per_node = self.joint_actions(roles);
        // Counting the joint actions of the last turn is enough: if each node has two or more, the last turn
        // has more of them than all earlier turns together.
        let last_turn = per_node.and_then(|n| n.checked_pow(u32::try_from(turns).ok()?));
        check(
            last_turn.is_some_and(|count| count <= MAX_JOINT_ACTIONS),
            "samples",
            format!(
                "{} with `joint_mode: {:?}` for {roles} roles and {turns} turns",
                self.samples, self.joint_mode
            ),
            "small enough that the tree of a task has at most 65536 joint actions at its last turn",
        )
    }
}

/// Everything that an agent has read and answered so far in one role, as the token ids that its model reads. It is
/// empty on ranks that do not hold the agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// The token ids, ready to be continued by a response.
    pub tokens: Arc<[u32]>,
}

/// A response with what is needed to learn from it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// The response: its text, its token ids and why it ended.
    pub response: Response,
    /// The natural log-probability of each token when it was drawn.
    pub logprobs: Vec<f32>,
    /// The log-probabilities under the agent's reference; `None` if no reference has scored the response.
    pub reference_logprobs: Option<Vec<f32>>,
    /// How much better than expected the response was; `None` until an algorithm has assigned it.
    pub advantage: Option<f64>,
}

impl Sample {
    /// Whether the length limit cut the response off.
    pub fn is_truncated(&self) -> bool {
        self.response.finish == FinishReason::Length
    }

    /// How far the policy has strayed from its reference on this response, in nats: the estimator k1,
    /// `Σ_τ (ℓ_τ − ℓ_τ^ref)`. `None` if no reference has scored the response.
    pub fn divergence(&self) -> Option<f64> {
        let reference = self.reference_logprobs.as_ref()?;
        let pairs = self.logprobs.iter().zip(reference);
        Some(
            pairs
                .map(|(&logprob, &reference)| f64::from(logprob) - f64::from(reference))
                .sum(),
        )
    }
}

/// One role's part of a node: what the role reads, and the responses that were sampled for it.
///
/// A node has one group per role, so an agent that plays several roles has several groups at each node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RoleGroup {
    /// What the role reads at this turn.
    pub observation: Observation,
    /// What the role's model reads.
    pub history: History,
    /// The return that a critic expects at this history; `None` without a critic.
    pub value: Option<f64>,
    /// The `G` responses.
    pub samples: Vec<Sample>,
}

impl RoleGroup {
    /// The advantage of each response; `None` unless all of them have one.
    pub fn advantages(&self) -> Option<Vec<f64>> {
        self.samples.iter().map(|sample| sample.advantage).collect()
    }

    /// The number of tokens in all responses.
    pub fn completion_tokens(&self) -> usize {
        let lengths = self
            .samples
            .iter()
            .map(|sample| sample.response.tokens.len());
        lengths.sum()
    }
}

/// One joint action of a node.
#[derive(Clone, Debug, PartialEq)]
pub struct Branch {
    /// For each role, the index of its response in its group.
    pub picks: Vec<usize>,
    /// What the joint action earned.
    pub reward: Reward,
    /// The next turn, if the episode continues.
    pub child: Option<Node>,
}

/// One turn of a task: every role's group, and the joint actions made of them.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// The task's identifier.
    pub task: String,
    /// The turn, counted from 0.
    pub turn: usize,
    /// One group per role.
    pub groups: Vec<RoleGroup>,
    /// The joint actions, scored.
    pub branches: Vec<Branch>,
}

impl Node {
    /// The joint action with these picks.
    pub fn joint_action(&self, picks: &[usize]) -> JointAction {
        let responses = picks.iter().zip(&self.groups);
        JointAction::new(
            responses
                .map(|(&pick, group)| group.samples[pick].response.clone())
                .collect(),
        )
    }

    /// This node's turn, completed by the joint action with these picks.
    pub fn turn_with(&self, picks: &[usize]) -> Turn {
        let observations = self.groups.iter().map(|group| group.observation.clone());
        Turn {
            observations: observations.collect(),
            action: self.joint_action(picks),
        }
    }

    /// This node and all nodes below it, parents before children.
    pub fn nodes(&self) -> Vec<&Node> {
        let mut nodes = vec![self];
        let children = self.branches.iter().flat_map(|branch| &branch.child);
        children.for_each(|child| nodes.extend(child.nodes()));
        nodes
    }

    /// This node and all nodes below it, each with the indices of the joint actions that lead to it.
    pub fn paths(&self) -> Vec<(Vec<usize>, &Node)> {
        let mut paths = vec![(Vec::new(), self)];
        for (index, branch) in self.branches.iter().enumerate() {
            let below = branch.child.iter().flat_map(Node::paths);
            paths.extend(below.map(|(path, node)| ([&[index], path.as_slice()].concat(), node)));
        }
        paths
    }

    /// This node and all nodes below it, with the groups, picks and rewards of some roles only.
    pub(crate) fn of_roles(&self, roles: &Range<usize>) -> Self {
        let branch = |branch: &Branch| Branch {
            picks: branch.picks[roles.clone()].to_vec(),
            reward: branch.reward.of_roles(roles.clone()),
            child: branch.child.as_ref().map(|child| child.of_roles(roles)),
        };
        Self {
            task: self.task.clone(),
            turn: self.turn,
            groups: self.groups[roles.clone()].to_vec(),
            branches: self.branches.iter().map(branch).collect(),
        }
    }

    /// The groups of this node and of all nodes below it, one slice per node.
    pub(crate) fn groups_mut(&mut self) -> Vec<&mut [RoleGroup]> {
        let mut groups = vec![self.groups.as_mut_slice()];
        let children = self
            .branches
            .iter_mut()
            .flat_map(|branch| &mut branch.child);
        children.for_each(|child| groups.extend(child.groups_mut()));
        groups
    }
}
