//! Returns and credit.
//!
//! `R^(j) = r^(j) + γ · mean over the child's joint actions of R`, and `R^(j) = r^(j)` at a leaf.
//! The credit of an agent's response is the mean return of the joint actions that contain it, or the sum
//! of these returns, as in the authors' code (PyPI `comlrl` 1.4.3).

use serde::{Deserialize, Serialize};

use crate::{
    MarlError,
    tree::{Branch, Node},
};

/// How the returns of the joint actions that contain a response are combined into its credit. With
/// aligned joint actions, which contain each response once, both choices are the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Credit {
    /// The mean of their returns, which has the same scale as with aligned joint actions.
    #[default]
    Mean,
    /// The sum of their returns. With [`JointMode::Cross`](crate::JointMode::Cross), it is `G^(n-1)` times as
    /// large as the mean, for `n` roles.
    Sum,
}

/// The return of every joint action of a node for the whole team. It comes from the reward that all roles
/// share, or from the mean over the roles if each role has its own reward.
pub fn returns(node: &Node, discount: f64) -> Vec<f64> {
    discounted(node, discount, &|_, branch| branch.reward.total())
}

/// The return of every joint action of a node for one role. It comes from the reward that all roles share,
/// or from the role's own reward.
pub fn role_returns(node: &Node, role: usize, discount: f64) -> Vec<f64> {
    discounted(node, discount, &|_, branch| branch.reward.total_of(role))
}

/// [`role_returns`] with a penalty: `coefficient` times the role's
/// [divergence](crate::Sample::divergence) from its reference is subtracted from every reward.
///
/// # Errors
/// If no reference has scored the role's responses.
pub fn penalized_returns(
    node: &Node,
    role: usize,
    discount: f64,
    coefficient: f64,
) -> Result<Vec<f64>, MarlError> {
    let nodes = node.nodes().into_iter();
    let mut samples = nodes.flat_map(|node| &node.groups[role].samples);
    if samples.any(|sample| sample.reference_logprobs.is_none()) {
        return Err(MarlError::NotScoredByReference);
    }
    Ok(discounted(node, discount, &|node, branch| {
        let sample = &node.groups[role].samples[branch.picks[role]];
        branch.reward.total_of(role) - coefficient * sample.divergence().unwrap_or(f64::NAN)
    }))
}

fn discounted(node: &Node, discount: f64, reward: &dyn Fn(&Node, &Branch) -> f64) -> Vec<f64> {
    let branches = node.branches.iter();
    branches
        .map(|branch| {
            let later = branch
                .child
                .as_ref()
                .map_or(0.0, |child| mean(&discounted(child, discount, reward)));
            reward(node, branch) + discount * later
        })
        .collect()
}

/// The credit of each of a role's responses, given the returns of the node's joint actions.
pub fn credits(node: &Node, role: usize, returns: &[f64], credit: Credit) -> Vec<f64> {
    let samples = node.groups[role].samples.len();
    let mut returns_by_response = vec![Vec::new(); samples];
    for (branch, value) in node.branches.iter().zip(returns) {
        returns_by_response[branch.picks[role]].push(*value);
    }
    let combine = |values: &Vec<f64>| match credit {
        Credit::Mean => mean(values),
        Credit::Sum => values.iter().sum(),
    };
    returns_by_response.iter().map(combine).collect()
}

/// The arithmetic mean; 0 for no values.
pub(crate) fn mean(values: &[f64]) -> f64 {
    if values.is_empty() {
        0.0
    } else {
        values.iter().sum::<f64>() / values.len() as f64
    }
}

#[cfg(test)]
pub(crate) mod properties;

#[cfg(test)]
pub(crate) mod tests {
    use polyphony_episode::{Observation, Response, Reward};

    use super::*;
    use crate::tree::{Branch, History, RoleGroup, Sample};

    /// A node of two agents with aligned joint actions that earn `rewards`.
    pub(crate) fn node(rewards: &[f64]) -> Node {
        let sample = Sample {
            response: Response::from_text("x"),
            logprobs: vec![],
            reference_logprobs: None,
            advantage: None,
        };
        let group = RoleGroup {
            observation: Observation::new("o"),
            history: History { tokens: [1].into() },
            value: None,
            samples: vec![sample; rewards.len()],
        };
        let branch = |(index, reward): (usize, &f64)| Branch {
            picks: vec![index; 2],
            reward: Reward::new([("r", *reward)]),
            child: None,
        };
        Node {
            task: "t".to_owned(),
            turn: 0,
            groups: vec![group; 2],
            branches: rewards.iter().enumerate().map(branch).collect(),
        }
    }

    #[test]
    fn a_leaf_returns_its_rewards_and_credits_them_to_each_agent() {
        let node = node(&[1.0, 0.5, 2.5]);
        let returns = returns(&node, 0.9);
        assert_eq!(returns, [1.0, 0.5, 2.5]);
        assert_eq!(credits(&node, 0, &returns, Credit::Mean), returns);
        assert_eq!(credits(&node, 1, &returns, Credit::Mean), returns);
    }

    #[test]
    fn a_child_adds_its_discounted_mean() {
        let mut root = node(&[1.0, 2.0]);
        root.branches[1].child = Some(node(&[0.0, 3.0, 6.0]));
        assert_eq!(returns(&root, 0.5), [1.0, 2.0 + 0.5 * 3.0]);
        assert_eq!(returns(&root, 0.0), [1.0, 2.0]);
    }

    #[test]
    fn a_response_in_several_joint_actions_is_credited_with_their_mean_or_sum() {
        let mut node = node(&[1.0, 2.0]);
        let first = node.branches[0].clone();
        node.branches.push(Branch {
            picks: vec![0, 1],
            reward: Reward::new([("r", 5.0)]),
            ..first
        });
        let returns = returns(&node, 1.0);
        assert_eq!(credits(&node, 0, &returns, Credit::Mean), [3.0, 2.0]);
        assert_eq!(credits(&node, 1, &returns, Credit::Mean), [1.0, 3.5]);
        assert_eq!(credits(&node, 0, &returns, Credit::Sum), [6.0, 2.0]);
        assert_eq!(credits(&node, 1, &returns, Credit::Sum), [1.0, 7.0]);
    }
}
