//! The direction and the length of a gradient step.

use super::*;
use crate::fixture::{changed, weights};

/// With decay rates of 0 and this value as `epsilon`, AdamW's step is the clipped gradient itself, scaled by
/// `learning_rate / ADDEND`.
const ADDEND: f64 = 1e6;

/// The largest error allowed of a derivative, relative to the largest derivative of the same weight.
const DERIVATIVE_TOLERANCE: f64 = 1e-2;

/// Updates whose step is minus the gradient.
fn plain_descent() -> Updates {
    Updates {
        learning_rate: ADDEND,
        epsilon: ADDEND,
        beta_1: 0.0,
        beta_2: 0.0,
        max_grad_norm: 1e9,
        ..Updates::default()
    }
}

/// The loss by its definition, in 64-bit floats.
fn loss(agent: &Agent, buffer: &[RoleGroup], policy: &PolicyLoss) -> f64 {
    let mut total = 0.0;
    let (mut responses, mut tokens) = (0.0, 0.0);
    for group in buffer {
        let logprobs = score(&agent.model, group, 1.0).unwrap();
        let mut rest = logprobs.as_slice();
        for sample in &group.samples {
            let advantage = sample.advantage.unwrap();
            let (response_logprobs, remaining) = rest.split_at(sample.response.tokens.len());
            rest = remaining;
            if policy.mask_truncated && sample.is_truncated() {
                continue;
            }
            responses += 1.0;
            tokens += response_logprobs.len() as f64;
            for (index, &logprob) in response_logprobs.iter().enumerate() {
                let logprob = f64::from(logprob);
                let ratio = (logprob - f64::from(sample.logprobs[index])).exp();
                total -= match policy.objective {
                    Objective::PolicyGradient => advantage * logprob,
                    Objective::Clipped { low, high } => {
                        let clipped = ratio.max(1.0 - low).min(1.0 + high);
                        (ratio * advantage).min(clipped * advantage)
                    }
                };
                if let Kl::Loss { coefficient } = policy.kl {
                    let reference = sample.reference_logprobs.as_ref().unwrap();
                    let gap = f64::from(reference[index]) - logprob;
                    total += coefficient * (gap.exp() - 1.0 - gap);
                }
            }
        }
    }
    total
        / match policy.aggregation {
            Aggregation::SequenceSum => responses,
            Aggregation::TokenMean => tokens,
            Aggregation::FixedLength => responses * MAX_NEW_TOKENS as f64,
        }
}

/// How far each weight moved.
fn moved(before: &Agent, after: &Agent) -> Vec<Vec<f64>> {
    let pairs = weights(&before.model)
        .into_iter()
        .zip(weights(&after.model));
    pairs
        .map(|((_, old), (_, new))| {
            old.iter()
                .zip(new)
                .map(|(old, new)| f64::from(new) - f64::from(*old))
                .collect()
        })
        .collect()
}

fn norm(weights: &[Vec<f64>]) -> f64 {
    weights
        .iter()
        .flatten()
        .map(|value| value * value)
        .sum::<f64>()
        .sqrt()
}

/// Two groups that were sampled by a somewhat different policy; the last response is truncated.
fn stale_groups(agent: &Agent) -> [RoleGroup; 2] {
    let mut buffer = [
        with_advantages(&group(agent, 3), [1.0, -0.5]),
        with_advantages(&group(agent, 90), [-2.0, 0.25]),
    ];
    for group in &mut buffer {
        for sample in &mut group.samples {
            let shifted = |by: [f32; 4]| -> Vec<f32> {
                let logprobs = sample.logprobs.iter().zip(by.iter().cycle());
                logprobs.map(|(logprob, by)| logprob + by).collect()
            };
            let reference = shifted([0.4, -0.3, 0.1, -0.6]);
            let sampled = shifted([0.05, 0.5, -0.1, -0.5]);
            (sample.logprobs, sample.reference_logprobs) = (sampled, Some(reference));
        }
    }
    buffer[1].samples[1].response.finish = FinishReason::Length;
    buffer
}

#[track_caller]
fn check_gradient(policy: PolicyLoss) {
    let before = agent("a");
    let buffer = stale_groups(&before);
    let mut after = agent("a");
    let updates = Updates {
        buffer: 2,
        minibatch: 2,
        logprob_tolerance: 10.0,
        ..plain_descent()
    };
    let (report, _) = run_first(&mut after, &buffer, &updates, &policy).unwrap();
    let gradient: Vec<Vec<f64>> = moved(&before, &after)
        .iter()
        .map(|step| step.iter().map(|d| -d).collect())
        .collect();
    assert!(
        (norm(&gradient) / report.grad_norm - 1.0).abs() < 1e-3,
        "{report:?}"
    );

    let loss_at = |weight: usize, index: usize, by: f32| {
        let model = changed(&before.model, weight, index, |value| value + by);
        let agent = Agent::new("a", model, before.codec.clone());
        loss(&agent, &buffer, &policy)
    };
    for (weight, gradient) in gradient.iter().enumerate().step_by(3) {
        let steepest =
            (0..gradient.len()).max_by(|&a, &b| gradient[a].abs().total_cmp(&gradient[b].abs()));
        let largest = gradient[steepest.unwrap()].abs();
        for index in [steepest.unwrap(), gradient.len() / 3] {
            let by = 2e-3;
            let difference =
                (loss_at(weight, index, by) - loss_at(weight, index, -by)) / f64::from(2.0 * by);
            let error = (difference - gradient[index]).abs();
            assert!(
                error <= DERIVATIVE_TOLERANCE * largest,
                "{policy:?}, weight {weight}, {index}: {} is not {difference}",
                gradient[index]
            );
        }
    }
}

#[test]
fn the_step_follows_the_gradient_of_finite_differences() {
    let clipped = Objective::Clipped {
        low: 0.2,
        high: 0.3,
    };
    for objective in [Objective::PolicyGradient, clipped] {
        for aggregation in [
            Aggregation::SequenceSum,
            Aggregation::TokenMean,
            Aggregation::FixedLength,
        ] {
            check_gradient(PolicyLoss {
                objective,
                aggregation,
                ..PolicyLoss::default()
            });
        }
        check_gradient(PolicyLoss {
            objective,
            kl: Kl::Loss { coefficient: 0.7 },
            ..PolicyLoss::default()
        });
        check_gradient(PolicyLoss {
            objective,
            mask_truncated: true,
            ..PolicyLoss::default()
        });
    }
}

#[test]
fn on_fresh_samples_the_first_clipped_step_equals_the_policy_gradient_step() {
    let before = agent("a");
    let buffer = [
        with_advantages(&group(&before, 3), [1.0, -0.5]),
        with_advantages(&group(&before, 90), [-2.0, 0.25]),
    ];
    let clipped = Objective::Clipped {
        low: 0.2,
        high: 0.2,
    };
    let steps = [Objective::PolicyGradient, clipped].map(|objective| {
        let policy = PolicyLoss {
            objective,
            ..PolicyLoss::default()
        };
        let mut after = agent("a");
        let updates = Updates {
            buffer: 2,
            minibatch: 2,
            ..plain_descent()
        };
        run_first(&mut after, &buffer, &updates, &policy).unwrap();
        moved(&before, &after)
    });
    let length = norm(&steps[0]);
    let differences: Vec<Vec<f64>> = (steps[0].iter().zip(&steps[1]))
        .map(|(a, b)| a.iter().zip(b).map(|(a, b)| a - b).collect())
        .collect();
    // Rollout and training agree on log-probabilities up to rounding, so ratios are 1 up to rounding.
    let difference = norm(&differences);
    assert!(difference < 1e-4 * length, "{difference} of {length}");
    assert!(length > 1.0, "{length}");
}

#[test]
fn long_gradients_are_clipped_and_short_ones_are_not() {
    let before = agent("a");
    let group = group(&before, 3);
    let step = |max_grad_norm| {
        let mut after = agent("a");
        let updates = Updates {
            max_grad_norm,
            ..plain_descent()
        };
        let buffer = [with_advantages(&group, [1.0, -1.0])];
        let report = run(&mut after, &mut Learner::default(), &buffer, &updates).unwrap();
        (norm(&moved(&before, &after)), report.grad_norm)
    };
    let (unclipped, grad_norm) = step(1e9);
    assert!(
        (unclipped / grad_norm - 1.0).abs() < 1e-3,
        "{unclipped} is not {grad_norm}"
    );
    assert!(
        grad_norm > 1.0,
        "the test needs a long gradient: {grad_norm}"
    );
    let (clipped, reported) = step(0.5);
    assert!((clipped - 0.5).abs() < 1e-3, "{clipped} is not 0.5");
    assert!(
        (reported / grad_norm - 1.0).abs() < 1e-6,
        "the norm before clipping is reported"
    );
}

#[test]
fn steps_follow_the_equations_of_adamw() {
    let updates = Updates {
        learning_rate: 1e-3,
        beta_1: 0.8,
        beta_2: 0.95,
        epsilon: 1e-2,
        weight_decay: 0.1,
        max_grad_norm: 2.0,
        logprob_tolerance: 1e3,
        ..Updates::default()
    };
    let (mut trained, mut learner) = (agent("a"), Learner::default());
    let group = group(&trained, 3);
    let buffer = [with_advantages(&group, [1.0, -1.0])];
    // Norms and biases have one dimension, and do not decay.
    let decays: Vec<bool> = (trained.model.named_weights().into_iter())
        .flat_map(|(spec, _)| vec![spec.shape.len() > 1; spec.shape.iter().product()])
        .collect();
    let flat = |agent: &Agent| -> Vec<f64> {
        let weights = weights(&agent.model).into_iter();
        weights
            .flat_map(|(_, values)| values)
            .map(f64::from)
            .collect()
    };
    let count = flat(&trained).len();
    let (mut first, mut second) = (vec![0.0; count], vec![0.0; count]);
    for step in 1..=3 {
        let before = Agent::new("a", trained.model.clone(), trained.codec.clone());
        // The same weights, moved by minus the clipped gradient.
        let mut descended = Agent::new("a", trained.model.clone(), trained.codec.clone());
        let clipped = Updates {
            max_grad_norm: 2.0,
            logprob_tolerance: 1e3,
            ..plain_descent()
        };
        run(&mut descended, &mut Learner::default(), &buffer, &clipped).unwrap();
        run(&mut trained, &mut learner, &buffer, &updates).unwrap();

        let rate = 1e-3;
        let gradient = moved(&before, &descended).concat();
        for (index, (old, new)) in flat(&before).into_iter().zip(flat(&trained)).enumerate() {
            let g = -gradient[index];
            first[index] = 0.8 * first[index] + 0.2 * g;
            second[index] = 0.95 * second[index] + 0.05 * g * g;
            let m = first[index] / (1.0 - 0.8f64.powi(step));
            let v: f64 = second[index] / (1.0 - 0.95f64.powi(step));
            let decay = if decays[index] { rate * 0.1 } else { 0.0 };
            let expected = (1.0 - decay) * old - rate * m / (v.sqrt() + 1e-2);
            assert!(
                (new - expected).abs() < 1e-6,
                "step {step}: {new} is not {expected}"
            );
        }
    }
}
