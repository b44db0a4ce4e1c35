//! Returns and credit.
//!
//! `R^(j) = r^(j) + γ · mean over the child's joint actions of R`, and `R^(j) = r^(j)` at a leaf.
//! An agent's response is credited with the mean return of the joint actions that contain it, or
//! with their sum, as the authors' code does (PyPI `comlrl` 1.4.3).

use crate::{
    config::Credit,
    tree::{Branch, Node},
};

/// The return of every joint action of a node.
pub fn returns(node: &Node, discount: f64) -> Vec<f64> {
    discounted(node, discount, &|_, branch| branch.reward.total())
}

/// The same for one agent alone, whose [divergence](crate::Sample::divergence) from its reference is
/// subtracted from every reward, multiplied by `coefficient`.
pub fn penalized_returns(node: &Node, agent: usize, discount: f64, coefficient: f64) -> Vec<f64> {
    discounted(node, discount, &|node, branch| {
        let own = &node.groups[agent].samples[branch.picks[agent]];
        branch.reward.total() - coefficient * own.divergence()
    })
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

/// The credit of each of an agent's responses, given the returns of the node's joint actions.
pub fn credits(node: &Node, agent: usize, returns: &[f64], credit: Credit) -> Vec<f64> {
    let samples = node.groups[agent].samples.len();
    let mut own = vec![Vec::new(); samples];
    for (branch, value) in node.branches.iter().zip(returns) {
        own[branch.picks[agent]].push(*value);
    }
    let of = |values: &Vec<f64>| match credit {
        Credit::Mean => mean(values),
        Credit::Sum => values.iter().sum(),
    };
    own.iter().map(of).collect()
}

/// The arithmetic mean; 0 of nothing.
pub(crate) fn mean(values: &[f64]) -> f64 {
    if values.is_empty() {
        0.0
    } else {
        values.iter().sum::<f64>() / values.len() as f64
    }
}

#[cfg(test)]
mod properties;

#[cfg(test)]
pub(crate) mod tests {
    use polyphony_episode::{Observation, Response, Reward};

    use super::*;
    use crate::tree::{AgentGroup, Branch, History, Sample};

    /// A node of two agents with aligned joint actions that earn `rewards`.
    pub(crate) fn node(rewards: &[f64]) -> Node {
        let sample = Sample {
            response: Response::from_text("x"),
            logprobs: vec![],
            reference_logprobs: vec![],
        };
        let group = AgentGroup {
            observation: Observation::new("o"),
            history: History { tokens: vec![1] },
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
        let twice = node.branches[0].clone();
        node.branches.push(Branch {
            picks: vec![0, 1],
            reward: Reward::new([("r", 5.0)]),
            ..twice
        });
        let returns = returns(&node, 1.0);
        assert_eq!(credits(&node, 0, &returns, Credit::Mean), [3.0, 2.0]);
        assert_eq!(credits(&node, 1, &returns, Credit::Mean), [1.0, 3.5]);
        assert_eq!(credits(&node, 0, &returns, Credit::Sum), [6.0, 2.0]);
        assert_eq!(credits(&node, 1, &returns, Credit::Sum), [1.0, 7.0]);
    }
}
