//! Weights and terms against their formulas, and derivatives against differences of the loss.

use polyphony_episode::{FinishReason, Observation, Response};
use proptest::prelude::*;

use super::*;
use crate::tree::History;

fn sample(tokens: usize, finish: FinishReason) -> Sample {
    let response = Response {
        text: "".into(),
        tokens: vec![7; tokens].into(),
        finish,
    };
    Sample {
        response,
        logprobs: vec![-1.0; tokens],
        reference_logprobs: None,
        advantage: None,
    }
}

fn group(samples: Vec<Sample>) -> RoleGroup {
    RoleGroup {
        observation: Observation::new("o"),
        history: History { tokens: [1].into() },
        value: None,
        samples,
    }
}

#[track_caller]
fn check(loss: PolicyLoss, expected: [f64; 3]) {
    let first = group(vec![
        sample(2, FinishReason::Stop),
        sample(8, FinishReason::Length),
    ]);
    let second = group(vec![sample(6, FinishReason::Stop)]);
    let weights = loss.weights(&[&first, &second], 8);
    assert_eq!([weights[0].len(), weights[1].len()], [2, 1]);
    for (weight, expected) in weights.iter().flatten().zip(expected) {
        assert!(
            (weight - expected).abs() < 1e-12,
            "{weights:?} against {expected}"
        );
    }
}

#[test]
fn each_aggregation_follows_its_formula() {
    let with = |aggregation| PolicyLoss {
        aggregation,
        ..PolicyLoss::default()
    };
    check(with(Aggregation::SequenceSum), [1.0 / 3.0; 3]);
    check(with(Aggregation::TokenMean), [1.0 / 16.0; 3]);
    check(with(Aggregation::FixedLength), [1.0 / 24.0; 3]);
}

#[test]
fn masking_drops_numerator_and_denominator() {
    let with = |aggregation| PolicyLoss {
        aggregation,
        mask_truncated: true,
        ..PolicyLoss::default()
    };
    check(with(Aggregation::SequenceSum), [0.5, 0.0, 0.5]);
    check(with(Aggregation::TokenMean), [0.125, 0.0, 0.125]);
    check(with(Aggregation::FixedLength), [0.0625, 0.0, 0.0625]);
}

const CLIPPED: Objective = Objective::Clipped {
    low: 0.2,
    high: 0.3,
};

/// The term of a token that has become `ratio` times as likely.
fn term_at(ratio: f64, advantage: f64, objective: Objective) -> TokenTerm {
    let loss = PolicyLoss {
        objective,
        ..PolicyLoss::default()
    };
    let logprobs = TokenLogprobs {
        trained: -2.0 + ratio.ln(),
        sampled: -2.0,
        reference: None,
    };
    loss.term(logprobs, advantage).unwrap()
}

#[test]
fn the_policy_gradient_weighs_log_probabilities() {
    for (ratio, advantage) in [(1.0, 2.0), (3.0, -0.5)] {
        let term = term_at(ratio, advantage, Objective::PolicyGradient);
        assert!((term.loss + advantage * (ratio.ln() - 2.0)).abs() < 1e-12);
        assert_eq!(
            (term.derivative, term.clipped, term.kl),
            (-advantage, false, None)
        );
        assert!((term.ratio - ratio).abs() < 1e-12);
        assert!((term.approx_kl - (ratio - 1.0 - ratio.ln())).abs() < 1e-12);
    }
}

#[test]
fn ratios_count_up_to_their_bounds() {
    // A good token must not become much more likely, and a bad one not much less likely. Changes in the
    // opposite direction are not clipped.
    for (ratio, advantage, loss, derivative, clipped) in [
        (1.0, 2.0, -2.0, -2.0, false),
        (1.2, 2.0, -2.4, -2.4, false),
        (1.5, 2.0, -2.6, 0.0, true),
        (0.5, 2.0, -1.0, -1.0, false),
        (0.5, -2.0, 1.6, 0.0, true),
        (1.5, -2.0, 3.0, 3.0, false),
    ] {
        let term = term_at(ratio, advantage, CLIPPED);
        let actual = [term.loss, term.derivative];
        for (actual, expected) in actual.iter().zip([loss, derivative]) {
            assert!(
                (actual - expected).abs() < 1e-12,
                "{ratio}, {advantage}: {term:?}"
            );
        }
        assert_eq!(term.clipped, clipped, "{ratio}, {advantage}");
    }
}

#[test]
fn on_fresh_samples_both_objectives_have_the_same_derivative() {
    for advantage in [-1.5, 0.0, 2.0] {
        let derivatives =
            [Objective::PolicyGradient, CLIPPED].map(|o| term_at(1.0, advantage, o).derivative);
        assert_eq!(derivatives[0], derivatives[1]);
    }
}

#[test]
fn the_divergence_is_k3_and_enters_the_loss_only_with_kl_loss() {
    let logprobs = TokenLogprobs {
        trained: -1.0,
        sampled: -1.0,
        reference: Some(-1.5),
    };
    let k3 = (-0.5f64).exp() + 0.5 - 1.0;
    for (kl, loss, derivative) in [
        (Kl::Off, 1.0, -1.0),
        (Kl::Reward { coefficient: 0.3 }, 1.0, -1.0),
        (
            Kl::Loss { coefficient: 0.3 },
            1.0 + 0.3 * k3,
            -1.0 + 0.3 * (1.0 - (-0.5f64).exp()),
        ),
    ] {
        let policy = PolicyLoss {
            kl,
            ..PolicyLoss::default()
        };
        let term = policy.term(logprobs, 1.0).unwrap();
        assert!((term.kl.unwrap() - k3).abs() < 1e-12);
        assert!((term.loss - loss).abs() < 1e-12, "{kl:?}: {term:?}");
        assert!(
            (term.derivative - derivative).abs() < 1e-12,
            "{kl:?}: {term:?}"
        );
    }
}

proptest! {
    #[test]
    fn the_derivative_is_that_of_finite_differences(
        trained in -6.0..-0.1f64,
        sampled in -6.0..-0.1f64,
        reference in prop::option::of(-6.0..-0.1f64),
        advantage in -3.0..3.0f64,
        clipped in any::<bool>(),
        kl in prop::sample::select(vec![
            Kl::Off, Kl::Loss { coefficient: 0.5 }, Kl::Reward { coefficient: 0.5 },
        ]),
    ) {
        let policy = PolicyLoss {
            objective: if clipped { CLIPPED } else { Objective::PolicyGradient },
            kl,
            ..PolicyLoss::default()
        };
        prop_assume!(reference.is_some() || !matches!(kl, Kl::Loss { .. }));
        const STEP: f64 = 1e-6;
        // At a bound the loss has a corner.
        let ratio = (trained - sampled).exp();
        prop_assume!([0.8, 1.3].iter().all(|bound| (ratio - bound).abs() > 1e-4));
        let term = |trained| {
            policy.term(TokenLogprobs { trained, sampled, reference }, advantage).unwrap()
        };
        let difference = (term(trained + STEP).loss - term(trained - STEP).loss) / (2.0 * STEP);
        let derivative = term(trained).derivative;
        prop_assert!((derivative - difference).abs() < 1e-4 * derivative.abs().max(1.0));
    }
}

/// A missing reference must not count as a divergence of zero.
#[test]
fn a_divergence_in_the_loss_needs_a_reference() {
    let logprobs = TokenLogprobs {
        trained: -1.0,
        sampled: -1.0,
        reference: None,
    };
    let coefficient = 0.3;
    let policy = |kl| PolicyLoss {
        kl,
        ..PolicyLoss::default()
    };
    let error = policy(Kl::Loss { coefficient })
        .term(logprobs, 1.0)
        .unwrap_err();
    assert!(
        error.to_string().contains("no reference has scored"),
        "{error}"
    );
    for kl in [Kl::Off, Kl::Reward { coefficient }] {
        assert_eq!(policy(kl).term(logprobs, 1.0).unwrap().kl, None);
    }
}
