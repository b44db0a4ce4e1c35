//! The policy-gradient objective (DESIGN 3.4).
//!
//! `L = − mean over responses of A · Σ_τ ℓ_τ` (Williams, 1992; arXiv 2508.04652, equation 4), with
//! `ℓ_τ` the log-probability of response token `τ`, the end-of-sequence token included. The
//! aggregation may divide the sum over tokens; see [`Aggregation`].

use crate::{
    config::{Aggregation, Algorithm},
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

/// For each response of a minibatch the factor `w` with which its tokens enter the loss,
/// `L = − Σ_responses w · Σ_τ ℓ_τ`. Responses left out of the loss have a factor of 0 and are left
/// out of the mean's denominator too.
pub fn token_weights(
    lessons: &[Lesson<'_>],
    algorithm: &Algorithm,
    max_new_tokens: usize,
) -> Vec<f64> {
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
    lessons
        .iter()
        .map(|lesson| {
            if counts(lesson) {
                lesson.advantage / divisor
            } else {
                0.0
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use polyphony_episode::{FinishReason, Response};

    use super::*;

    fn sample(tokens: usize, finish: FinishReason) -> Sample {
        let response = Response {
            text: String::new(),
            tokens: vec![7; tokens],
            finish,
        };
        Sample {
            response,
            logprobs: vec![-1.0; tokens],
        }
    }

    #[track_caller]
    fn check(algorithm: Algorithm, expected: [f64; 3]) {
        let samples = [
            sample(2, FinishReason::Stop),
            sample(8, FinishReason::Length),
            sample(6, FinishReason::Stop),
        ];
        let advantages = [1.0, -2.0, 4.0];
        let lessons: Vec<Lesson<'_>> = samples
            .iter()
            .zip(advantages)
            .map(|(sample, advantage)| Lesson { sample, advantage })
            .collect();
        let weights = token_weights(&lessons, &algorithm, 8);
        for (own, expected) in weights.iter().zip(expected) {
            assert!(
                (own - expected).abs() < 1e-12,
                "{weights:?} against {expected}"
            );
        }
    }

    #[test]
    fn each_aggregation_follows_its_formula() {
        let with = |aggregation| Algorithm {
            aggregation,
            ..Algorithm::default()
        };
        check(
            with(Aggregation::SequenceSum),
            [1.0 / 3.0, -2.0 / 3.0, 4.0 / 3.0],
        );
        check(
            with(Aggregation::TokenMean),
            [1.0 / 16.0, -2.0 / 16.0, 4.0 / 16.0],
        );
        check(
            with(Aggregation::FixedLength),
            [1.0 / 24.0, -2.0 / 24.0, 4.0 / 24.0],
        );
    }

    #[test]
    fn masking_drops_numerator_and_denominator() {
        let with = |aggregation| Algorithm {
            aggregation,
            mask_truncated: true,
            ..Algorithm::default()
        };
        check(with(Aggregation::SequenceSum), [0.5, 0.0, 2.0]);
        check(with(Aggregation::TokenMean), [1.0 / 8.0, 0.0, 0.5]);
    }
}
