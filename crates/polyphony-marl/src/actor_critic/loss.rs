//! The critic's part in the loss of a minibatch.

use super::value_head::{HeadGradients, ValueHead};
use crate::{
    MarlError,
    tree::AgentGroup,
    update::{GroupLoss, GroupScores},
};

/// A critic's loss for one response, and its derivative in the value: the squared error, or that of the
/// value clipped to within `clip` of the one at rollout, whichever is greater.
pub fn value_loss(value: f64, at_rollout: f64, target: f64, clip: Option<f64>) -> (f64, f64) {
    let free = (value - target).powi(2);
    let clipped = match clip {
        Some(clip) => value.clamp(at_rollout - clip, at_rollout + clip),
        None => value,
    };
    let bounded = (clipped - target).powi(2);
    // If the clipped value is farther off, it is a constant.
    match bounded > free {
        true => (bounded, 0.0),
        false => (free, 2.0 * (value - target)),
    }
}

/// A critic while a minibatch is differentiated.
pub(super) struct CriticLoss<'a> {
    head: &'a ValueHead,
    clip: Option<f64>,
    /// What the loss of a response is multiplied by.
    weight: f64,
    /// The head's gradients, added up over groups.
    pub(super) gradients: HeadGradients,
    /// The loss of each response, before it is weighted.
    pub(super) losses: Vec<f64>,
}

impl<'a> CriticLoss<'a> {
    pub(super) fn new(head: &'a ValueHead, clip: Option<f64>, weight: f64) -> Self {
        Self {
            head,
            clip,
            weight,
            gradients: HeadGradients::new(head),
            losses: Vec::new(),
        }
    }

    /// Adds the critic's loss of a group to the actor's.
    pub(super) fn add_to(
        &mut self,
        actor: GroupLoss,
        group: &AgentGroup,
        scores: &GroupScores<'_>,
    ) -> Result<GroupLoss, MarlError> {
        let at_rollout = group.value.ok_or(MarlError::NoValue)?;
        let advantages = group.advantages().ok_or(MarlError::NoAdvantage)?;
        let expected = self.head.forward(scores.states);
        let (mut loss, mut derivative) = (actor.loss, 0.0);
        for advantage in advantages {
            let target = at_rollout + advantage;
            let (own_loss, own_derivative) =
                value_loss(expected.value, at_rollout, target, self.clip);
            loss += self.weight * own_loss;
            derivative += self.weight * own_derivative;
            self.losses.push(own_loss);
        }
        let gradients = &mut self.gradients;
        let states = self
            .head
            .backward(scores.states, &expected, derivative, gradients);
        Ok(GroupLoss {
            loss,
            states,
            ..actor
        })
    }
}
