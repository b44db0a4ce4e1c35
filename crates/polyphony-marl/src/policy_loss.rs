//! Policy losses: what is maximized over an agent's responses.
//!
//! With `ℓ_τ` the log-probability of response token `τ`, the end-of-sequence token included, and `A`
//! the response's advantage:
//!
//! - *Policy gradient*: `L = − mean over responses of A · Σ_τ ℓ_τ` (Williams, 1992; arXiv 2508.04652,
//!   equation 4).
//! - *Clipped*: with `ρ_τ = exp(ℓ_τ − ℓ_τ^old)`, `min(ρ_τ A, clip(ρ_τ, 1 − ε_low, 1 + ε_high) A)`
//!   instead of `A ℓ_τ` (PPO, arXiv 1707.06347; two bounds as in DAPO, arXiv 2503.14476).
//! - *KL in the loss*: `+ β (exp(d_τ) − d_τ − 1)` with `d_τ = ℓ_τ^ref − ℓ_τ`, the estimator k3 (Schulman,
//!   "Approximating KL Divergence", 2020; as in GRPO, arXiv 2402.03300).
//!
//! The aggregation may divide the sum over tokens; see [`Aggregation`].

use serde::{Deserialize, Serialize};

use crate::{
    MarlError,
    config::{ConfigError, Updates, check, positive},
    tree::{RoleGroup, Sample},
    update::{GroupLoss, GroupScores},
};

/// How token terms become the loss of a minibatch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Aggregation {
    /// The sum over a response's tokens, averaged over responses (as in the MAGRPO paper).
    #[default]
    SequenceSum,
    /// The mean over all tokens of the minibatch.
    TokenMean,
    /// As `SequenceSum`, divided by the length of the longest response allowed.
    FixedLength,
}

/// What is maximized for each token of a response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub enum Objective {
    /// The advantage times the token's log-probability (as in the MAGRPO paper). Each sample may be used only
    /// once.
    #[default]
    PolicyGradient,
    /// The smaller of `ρ A` and `clip(ρ, 1 - low, 1 + high) A`. `A` is the advantage, and `ρ` is the token's
    /// probability in training, divided by its probability at rollout.
    Clipped {
        /// How far below 1 the lower bound of the ratio is.
        low: f64,
        /// How far above 1 the upper bound of the ratio is.
        high: f64,
    },
}

/// What keeps a policy near its reference, which is the policy that it started from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub enum Kl {
    /// Nothing, so no reference is kept.
    #[default]
    Off,
    /// The estimator k3 is added to the loss. Its gradient pulls the policy back towards the reference.
    Loss {
        /// The weight of the divergence.
        coefficient: f64,
    },
    /// The [divergence](crate::Sample::divergence) of an agent's response (the estimator k1) is subtracted
    /// from the rewards of this agent.
    Reward {
        /// The weight of the divergence.
        coefficient: f64,
    },
}

/// The loss of an agent's responses.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PolicyLoss {
    /// What is maximized.
    pub objective: Objective,
    /// What keeps policies near their start.
    pub kl: Kl,
    /// How token terms are summed up.
    pub aggregation: Aggregation,
    /// Excludes truncated responses, those that the length limit cut off, from the loss.
    pub mask_truncated: bool,
}

/// A token's log-probability under three policies, in nats.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenLogprobs {
    /// Under the policy in training.
    pub trained: f64,
    /// Under the rollout policy, when it was sampled.
    pub sampled: f64,
    /// Under the reference, if one has scored it.
    pub reference: Option<f64>,
}

/// A token's term of the loss.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenTerm {
    /// Its value.
    pub loss: f64,
    /// Its derivative with respect to the token's log-probability under the policy in training.
    pub derivative: f64,
    /// `ρ`: the token's probability in training, divided by its probability at rollout.
    pub ratio: f64,
    /// `ρ − 1 − ln ρ`: an estimate of KL(rollout policy ‖ policy in training), in nats (Schulman's k3,
    /// *Approximating KL Divergence*, 2020).
    pub approx_kl: f64,
    /// Whether the objective clips the token.
    pub clipped: bool,
    /// The estimator k3 of the divergence from the reference; `None` if no reference has scored the token.
    pub kl: Option<f64>,
}

/// How far the policy in training is from the rollout policy, and from its reference. Each value is a mean
/// over the tokens in the loss of all gradient steps, including skipped steps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PolicyStats {
    /// The mean of the ratio `ρ`.
    pub ratio: f64,
    /// The mean of `ρ − 1 − ln ρ`, in nats.
    pub approx_kl: f64,
    /// The fraction of tokens that the objective clipped.
    pub clip_fraction: f64,
    /// The mean of the estimator k3, in nats; `None` if no reference has scored the tokens.
    pub kl: Option<f64>,
}

impl PolicyLoss {
    /// Checks every number, and that the objective allows the number of passes over the samples that
    /// `updates` asks for.
    ///
    /// # Errors
    /// Names the first setting that cannot work. For example, a policy gradient is correct only for samples
    /// of the current policy, so it cannot use them twice.
    pub fn validate(&self, updates: &Updates) -> Result<(), ConfigError> {
        if let Objective::Clipped { low, high } = self.objective {
            let allowed = "above 0 and below 1";
            check(low > 0.0 && low < 1.0, "objective.low", low, allowed)?;
            positive("objective.high", high)?;
        }
        if let Kl::Loss { coefficient } | Kl::Reward { coefficient } = self.kl {
            positive("kl.coefficient", coefficient)?;
        }
        check(
            updates.epochs == 1 || self.objective != Objective::PolicyGradient,
            "updates.epochs",
            updates.epochs,
            "1 with `objective: PolicyGradient`, which may use a sample only once (`Clipped` may \
             use it again)",
        )
    }

    /// The weight of each response in the loss of a minibatch, group by group:
    /// `L = Σ_responses weight · Σ_τ term_τ`. Masked responses have a weight of 0, and the mean's
    /// denominator does not count them.
    pub fn weights(&self, groups: &[&RoleGroup], max_new_tokens: usize) -> Vec<Vec<f64>> {
        let is_in_loss = |sample: &&Sample| !(self.mask_truncated && sample.is_truncated());
        let samples = groups
            .iter()
            .flat_map(|group| &group.samples)
            .filter(is_in_loss);
        let count = samples.clone().count() as f64;
        let lengths = samples.map(|sample| sample.response.tokens.len());
        let tokens = lengths.sum::<usize>() as f64;
        let divisor = match self.aggregation {
            Aggregation::SequenceSum => count,
            Aggregation::TokenMean => tokens,
            Aggregation::FixedLength => count * max_new_tokens as f64,
        };
        let weight = |sample: &Sample| match is_in_loss(&sample) {
            true => 1.0 / divisor,
            false => 0.0,
        };
        let group_weights = |group: &&RoleGroup| group.samples.iter().map(weight).collect();
        groups.iter().map(group_weights).collect()
    }

    /// The term of a token whose response has this advantage.
    ///
    /// # Errors
    /// If a divergence from the reference enters the loss, but no reference has scored the token.
    pub fn term(&self, logprobs: TokenLogprobs, advantage: f64) -> Result<TokenTerm, MarlError> {
        let log_ratio = logprobs.trained - logprobs.sampled;
        let ratio = log_ratio.exp();
        let (gain, gain_derivative, clipped) = match self.objective {
            Objective::PolicyGradient => (advantage * logprobs.trained, advantage, false),
            Objective::Clipped { low, high } => {
                let unclipped = ratio * advantage;
                let clipped = ratio.clamp(1.0 - low, 1.0 + high) * advantage;
                // If both are equal, the ratio is within its bounds or the advantage is 0.
                match clipped < unclipped {
                    true => (clipped, 0.0, true),
                    false => (unclipped, unclipped, false),
                }
            }
        };
        let coefficient = match (self.kl, logprobs.reference) {
            (Kl::Loss { .. }, None) => return Err(MarlError::NotScoredByReference),
            (Kl::Loss { coefficient }, Some(_)) => coefficient,
            (Kl::Off | Kl::Reward { .. }, _) => 0.0,
        };
        let reference_gap = logprobs
            .reference
            .map_or(0.0, |reference| reference - logprobs.trained);
        let kl = reference_gap.exp() - reference_gap - 1.0;
        Ok(TokenTerm {
            loss: coefficient * kl - gain,
            derivative: coefficient * (1.0 - reference_gap.exp()) - gain_derivative,
            ratio,
            approx_kl: log_ratio.exp_m1() - log_ratio,
            clipped,
            kl: logprobs.reference.map(|_| kl),
        })
    }

    /// The loss of one group, given its responses' weights, and its derivative with respect to every
    /// log-probability. The terms of the tokens in the loss are added to `terms`.
    ///
    /// # Errors
    /// If a response has no advantage, or as [`PolicyLoss::term`].
    pub fn of_group(
        &self,
        group: &RoleGroup,
        weights: &[f64],
        scores: &GroupScores<'_>,
        terms: &mut Vec<TokenTerm>,
    ) -> Result<GroupLoss, MarlError> {
        let mut trained = scores.logprobs.iter();
        let mut loss = 0.0;
        let mut derivatives = Vec::with_capacity(scores.logprobs.len());
        for (sample, &weight) in group.samples.iter().zip(weights) {
            let advantage = sample.advantage.ok_or(MarlError::NoAdvantage)?;
            for (index, (&sampled, &trained)) in
                sample.logprobs.iter().zip(trained.by_ref()).enumerate()
            {
                let reference = sample.reference_logprobs.as_ref();
                let logprobs = TokenLogprobs {
                    trained: trained.into(),
                    sampled: sampled.into(),
                    reference: reference.map(|logprobs| f64::from(logprobs[index])),
                };
                let term = self.term(logprobs, advantage)?;
                loss += weight * term.loss;
                derivatives.push((weight * term.derivative) as f32);
                if weight > 0.0 {
                    terms.push(term);
                }
            }
        }
        Ok(GroupLoss {
            loss,
            logprob_derivatives: derivatives,
            hidden_state_derivatives: Vec::new(),
        })
    }

    /// Whether an update skips this group, because the loss does not depend on it. `weights` are those of the
    /// group's responses.
    ///
    /// # Errors
    /// If a response has no advantage.
    pub fn is_skipped(&self, group: &RoleGroup, weights: &[f64]) -> Result<bool, MarlError> {
        let advantages = group.advantages().ok_or(MarlError::NoAdvantage)?;
        let mut advantages_in_loss = weights
            .iter()
            .zip(&advantages)
            .filter(|(weight, _)| **weight > 0.0)
            .map(|(_, advantage)| *advantage)
            .peekable();
        let has_kl_loss = matches!(self.kl, Kl::Loss { .. });
        Ok(advantages_in_loss.peek().is_none()
            || (!has_kl_loss && advantages_in_loss.all(|advantage| advantage == 0.0)))
    }
}

impl PolicyStats {
    /// The means over the tokens in the loss; `None` if there are none.
    pub fn of(terms: &[TokenTerm]) -> Option<Self> {
        let tokens = terms.len() as f64;
        let mean = |value: fn(&TokenTerm) -> f64| terms.iter().map(value).sum::<f64>() / tokens;
        let has_reference = terms.iter().all(|term| term.kl.is_some());
        (!terms.is_empty()).then(|| Self {
            ratio: mean(|term| term.ratio),
            approx_kl: mean(|term| term.approx_kl),
            clip_fraction: mean(|term| f64::from(u8::from(term.clipped))),
            kl: has_reference.then(|| mean(|term| term.kl.unwrap_or(0.0))),
        })
    }
}

#[cfg(test)]
mod tests;
