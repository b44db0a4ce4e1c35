//! A node as a line of a file, with everything that is needed to score it again.

use polyphony_episode::{FinishReason, Reward};
use serde::{Serialize, Serializer, ser::SerializeMap};

use super::Rollout;
use crate::tree::{Branch, Node, RoleGroup, Sample};

/// A node and its position in its task's tree. It is serialized as one object: the task's identifier,
/// `turn` counted from 0, `path`, `agents` (what each role read and answered), and `joint_actions` (with
/// what they earned).
#[derive(Clone, Debug)]
pub struct NodeLine<'a> {
    /// The indices of the joint actions that lead to the node; empty at the first turn.
    pub path: Vec<usize>,
    /// The node.
    pub node: &'a Node,
}

impl Rollout {
    /// All nodes as lines of a file, parents before children.
    pub fn lines(&self) -> impl Iterator<Item = NodeLine<'_>> {
        let nodes = self.roots.iter().flat_map(Node::paths);
        nodes.map(|(path, node)| NodeLine { path, node })
    }
}

impl Serialize for NodeLine<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Node {
            task,
            turn,
            groups,
            branches,
        } = self.node;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("task", task)?;
        map.serialize_entry("turn", turn)?;
        map.serialize_entry("path", &self.path)?;
        let agents: Vec<_> = groups.iter().map(AgentLine::from).collect();
        map.serialize_entry("agents", &agents)?;
        let actions: Vec<_> = branches.iter().map(ActionLine::from).collect();
        map.serialize_entry("joint_actions", &actions)?;
        map.end()
    }
}

/// A whole rollout is the list of its [lines](Rollout::lines).
impl Serialize for Rollout {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.lines())
    }
}

#[derive(Serialize)]
struct AgentLine<'a> {
    observation: &'a str,
    prompt_tokens: &'a [u32],
    responses: Vec<ResponseLine<'a>>,
}

impl<'a> From<&'a RoleGroup> for AgentLine<'a> {
    fn from(group: &'a RoleGroup) -> Self {
        Self {
            observation: &group.observation.text,
            prompt_tokens: &group.history.tokens,
            responses: group.samples.iter().map(ResponseLine::from).collect(),
        }
    }
}

#[derive(Serialize)]
struct ResponseLine<'a> {
    text: &'a str,
    tokens: &'a [u32],
    finish: FinishReason,
    logprobs: &'a [f32],
    #[serde(skip_serializing_if = "Option::is_none")]
    reference_logprobs: Option<&'a [f32]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    advantage: Option<f64>,
}

impl<'a> From<&'a Sample> for ResponseLine<'a> {
    fn from(sample: &'a Sample) -> Self {
        Self {
            text: &sample.response.text,
            tokens: &sample.response.tokens,
            finish: sample.response.finish,
            logprobs: &sample.logprobs,
            reference_logprobs: sample.reference_logprobs.as_deref(),
            advantage: sample.advantage,
        }
    }
}

#[derive(Serialize)]
struct ActionLine<'a> {
    picks: &'a [usize],
    reward: f64,
    parts: Parts<'a>,
    /// What each role earned, if each role has its own reward.
    #[serde(skip_serializing_if = "Option::is_none")]
    per_role: Option<Vec<Parts<'a>>>,
}

impl<'a> From<&'a Branch> for ActionLine<'a> {
    fn from(branch: &'a Branch) -> Self {
        let reward: &'a Reward = &branch.reward;
        let per_role = |roles| (0..roles).map(|role| Parts(reward.parts_of(role).collect()));
        Self {
            picks: &branch.picks,
            reward: reward.total(),
            parts: Parts(reward.parts().collect()),
            per_role: reward.role_count().map(|roles| per_role(roles).collect()),
        }
    }
}

/// Named values, serialized as one object.
struct Parts<'a>(Vec<(&'a str, f64)>);

impl Serialize for Parts<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().copied())
    }
}
