//! What a critic should have expected, and what it costs that it did not.

use crate::{
    MarlError,
    policy_loss::Kl,
    returns::{Credit, credits, mean},
    tree::{Branch, Node},
};

/// How far advantages look ahead, and what a role pays for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outlook {
    /// `γ`.
    pub(super) discount: f64,
    /// `λ`.
    pub(super) lambda: f64,
    /// A divergence may be subtracted from rewards.
    pub(super) kl: Kl,
}

/// The values of a node and of all below it.
#[derive(Clone, Debug)]
pub(super) struct Values {
    /// One per role.
    of_roles: Vec<f64>,
    /// One per joint action; `None` where the episode ends.
    children: Vec<Option<Values>>,
}

impl Values {
    /// Those of a tree, given that of a role's history at a node.
    pub(super) fn of(
        node: &Node,
        value: &dyn Fn(&Node, usize) -> Result<f64, MarlError>,
    ) -> Result<Self, MarlError> {
        let of_roles = (0..node.groups.len()).map(|role| value(node, role));
        let children = node.branches.iter().map(|branch| {
            let child = branch.child.as_ref();
            child.map(|child| Self::of(child, value)).transpose()
        });
        Ok(Self {
            of_roles: of_roles.collect::<Result<_, _>>()?,
            children: children.collect::<Result<_, _>>()?,
        })
    }

    /// Those of each node, a node before those below it.
    pub(super) fn all(&self) -> Vec<&[f64]> {
        let mut all = vec![self.of_roles.as_slice()];
        for child in self.children.iter().flatten() {
            all.extend(child.all());
        }
        all
    }
}

/// For every node, a node before those below it, and every role the advantage of each response.
pub(super) fn td_advantages(
    root: &Node,
    values: &Values,
    outlook: Outlook,
) -> Result<Vec<Vec<Vec<f64>>>, MarlError> {
    let of_role = |role: usize| {
        let joint = joint_advantages(root, values, role, outlook)?;
        let own = credits(root, role, &joint, Credit::Mean);
        Ok(own)
    };
    let own = (0..root.groups.len()).map(of_role);
    let mut all = vec![own.collect::<Result<Vec<_>, MarlError>>()?];
    for (branch, values) in root.branches.iter().zip(&values.children) {
        if let (Some(child), Some(values)) = (&branch.child, values) {
            all.extend(td_advantages(child, values, outlook)?);
        }
    }
    Ok(all)
}

/// The advantage of each joint action of a node for one role.
fn joint_advantages(
    node: &Node,
    values: &Values,
    role: usize,
    outlook: Outlook,
) -> Result<Vec<f64>, MarlError> {
    let Outlook {
        discount,
        lambda,
        kl,
    } = outlook;
    let branches = node.branches.iter().zip(&values.children);
    let advantages = branches.map(|(branch, below)| {
        let mut advantage = reward(node, branch, role, kl)? - values.of_roles[role];
        if let (Some(child), Some(below)) = (&branch.child, below) {
            let later = mean(&joint_advantages(child, below, role, outlook)?);
            advantage += discount * (below.of_roles[role] + lambda * later);
        }
        Ok(advantage)
    });
    advantages.collect()
}

/// What a role earns by a joint action, less what it pays for its divergence.
fn reward(node: &Node, branch: &Branch, role: usize, kl: Kl) -> Result<f64, MarlError> {
    let earned = branch.reward.total_of(role);
    let Kl::Reward { coefficient } = kl else {
        return Ok(earned);
    };
    let sample = &node.groups[role].samples[branch.picks[role]];
    let divergence = sample.divergence();
    Ok(earned - coefficient * divergence.ok_or(MarlError::NotScoredByReference)?)
}

/// A critic's loss for one response, and its derivative in the value: the squared error, or that of the
/// value clipped to within `clip` of that at rollout, whichever is greater.
pub fn value_loss(value: f64, at_rollout: f64, target: f64, clip: Option<f64>) -> (f64, f64) {
    let free = (value - target).powi(2);
    let clipped = match clip {
        Some(clip) => value.clamp(at_rollout - clip, at_rollout + clip),
        None => value,
    };
    let bounded = (clipped - target).powi(2);
    // A clipped value that is farther off stands still.
    match bounded > free {
        true => (bounded, 0.0),
        false => (free, 2.0 * (value - target)),
    }
}
