//! The critic's part in the loss of a minibatch.

use super::value_head::{HeadGradients, ValueHead};
use crate::{
    MarlError,
    tree::RoleGroup,
    update::{GroupLoss, GroupScores},
};

/// A critic's loss for one response, and its derivative with respect to the value. The loss is the larger
/// of two squared errors: that of the value, and that of the value clipped to within `clip` of the value
/// at rollout.
pub fn value_loss(value: f64, at_rollout: f64, target: f64, clip: Option<f64>) -> (f64, f64) {
    let unclipped_error = (value - target).powi(2);
    let clipped_value = match clip {
        Some(clip) => value.clamp(at_rollout - clip, at_rollout + clip),
        None => value,
    };
    let clipped_error = (clipped_value - target).powi(2);
    // If the clipped error is larger, the value lies outside the clipping range. The clipped value is then
    // constant, so there is no gradient.
    match clipped_error > unclipped_error {
        true => (clipped_error, 0.0),
        false => (unclipped_error, 2.0 * (value - target)),
    }
}

/// A critic's loss in a minibatch. It is given one group after the other, and sums up the head's gradients.
pub(super) struct CriticLoss<'a> {
    head: &'a ValueHead,
    clip: Option<f64>,
    /// The weight of a response's loss.
    weight: f64,
    /// The head's gradients, summed over groups.
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
        group: &RoleGroup,
        scores: &GroupScores<'_>,
    ) -> Result<GroupLoss, MarlError> {
        let at_rollout = group.value.ok_or(MarlError::NoValue)?;
        let advantages = group.advantages().ok_or(MarlError::NoAdvantage)?;
        let estimate = self.head.forward(scores.hidden_states);
        let (mut loss, mut derivative) = (actor.loss, 0.0);
        for advantage in advantages {
            let target = at_rollout + advantage;
            let (response_loss, response_derivative) =
                value_loss(estimate.value, at_rollout, target, self.clip);
            loss += self.weight * response_loss;
            derivative += self.weight * response_derivative;
            self.losses.push(response_loss);
        }
        let gradients = &mut self.gradients;
        let hidden_state_derivatives =
            self.head
                .backward(scores.hidden_states, &estimate, derivative, gradients);
        Ok(GroupLoss {
            loss,
            hidden_state_derivatives,
            ..actor
        })
    }
}
