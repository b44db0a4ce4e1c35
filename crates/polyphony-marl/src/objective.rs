//! Objectives: what is maximized over an agent's responses.
//!
//! With `ℓ_τ` the log-probability of response token `τ`, the end-of-sequence token included, and `A`
//! the response's advantage:
//!
//! - *Policy gradient*: `L = − mean over responses of A · Σ_τ ℓ_τ` (Williams, 1992; arXiv 2508.04652,
//!   equation 4).
//! - *Clipped*: with `ρ_τ = exp(ℓ_τ − ℓ_τ^old)`, `min(ρ_τ A, clip(ρ_τ, 1 − ε_low, 1 + ε_high) A)` in
//!   place of `A ℓ_τ` (PPO, arXiv 1707.06347; two bounds as in DAPO, arXiv 2503.14476).
//! - *KL in the loss*: `+ β (exp(d_τ) − d_τ − 1)` with `d_τ = ℓ_τ^ref − ℓ_τ`, the estimator k3
//!   (Schulman, "Approximating KL Divergence", 2020; used so by GRPO, arXiv 2402.03300).
//!
//! The aggregation may divide the sum over tokens; see [`Aggregation`].

use crate::{
    config::{Aggregation, Algorithm, Kl, Objective},
    tree::Sample,
};

/// One response to be learned from.
#[derive(Clone, Copy, Debug)]
pub struct Lesson<'a> {
    /// What was said.
    pub sample: &'a Sample,
    /// How much better than expected it was.
    pub advantage: f64,
}

/// For each response of a minibatch the share with which its tokens' terms enter the loss,
/// `L = Σ_responses share · Σ_τ term_τ`. Responses left out of the loss have a share of 0 and are
/// left out of the mean's denominator too.
pub fn shares(lessons: &[Lesson<'_>], algorithm: &Algorithm, max_new_tokens: usize) -> Vec<f64> {
    let counts = |lesson: &Lesson<'_>| !(algorithm.mask_truncated && lesson.sample.is_truncated());
    let trained = lessons.iter().filter(|lesson| counts(lesson));
    let responses = trained.clone().count() as f64;
    let tokens = trained
        .map(|lesson| lesson.sample.response.tokens.len())
        .sum::<usize>() as f64;
    let divisor = match algorithm.aggregation {
        Aggregation::SequenceSum => responses,
        Aggregation::TokenMean => tokens,
        Aggregation::FixedLength => responses * max_new_tokens as f64,
    };
    let share = |lesson| if counts(lesson) { 1.0 / divisor } else { 0.0 };
    lessons.iter().map(share).collect()
}

/// A token's log-probability under three policies, in nats.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenLogprobs {
    /// Under the policy that is trained.
    pub trained: f64,
    /// When it was sampled.
    pub sampled: f64,
    /// Under the reference, if one is kept.
    pub reference: Option<f64>,
}

/// A token's term of the loss.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenTerm {
    /// Its value.
    pub loss: f64,
    /// Its derivative in the log-probability under the policy that is trained.
    pub slope: f64,
    /// `ρ`: how much likelier the token is than when it was sampled.
    pub ratio: f64,
    /// Whether the objective's bounds hold the token back.
    pub clipped: bool,
    /// The estimator k3 of the divergence from the reference; 0 without one.
    pub kl: f64,
}

/// The term of a token whose response has this advantage.
pub fn token_term(logprobs: TokenLogprobs, advantage: f64, algorithm: &Algorithm) -> TokenTerm {
    let ratio = (logprobs.trained - logprobs.sampled).exp();
    let (gain, gain_slope, clipped) = match algorithm.objective {
        Objective::PolicyGradient => (advantage * logprobs.trained, advantage, false),
        Objective::Clipped { low, high } => {
            let free = ratio * advantage;
            let bounded = ratio.clamp(1.0 - low, 1.0 + high) * advantage;
            // Where both are equal the ratio is within its bounds, or nothing is to be gained.
            match bounded < free {
                true => (bounded, 0.0, true),
                false => (free, free, false),
            }
        }
    };
    let ahead = logprobs
        .reference
        .map_or(0.0, |reference| reference - logprobs.trained);
    let kl = ahead.exp() - ahead - 1.0;
    let coefficient = match algorithm.kl {
        Kl::Loss { coefficient } => coefficient,
        Kl::Off | Kl::Reward { .. } => 0.0,
    };
    TokenTerm {
        loss: coefficient * kl - gain,
        slope: coefficient * (1.0 - ahead.exp()) - gain_slope,
        ratio,
        clipped,
        kl,
    }
}

#[cfg(test)]
mod tests;
