//! The direction and the length of a gradient step.

use super::*;
use crate::fixture::{changed, weights};

/// With decay rates of 0 and this addend AdamW's step is the clipped gradient itself, scaled by
/// `learning_rate / ADDEND`.
const ADDEND: f64 = 1e6;

/// The largest error of a derivative, relative to the largest of its weight.
const DERIVATIVE_TOLERANCE: f64 = 1e-2;

/// Updates whose step is minus the gradient.
fn plain_descent() -> Updates {
    Updates {
        learning_rate: ADDEND,
        epsilon: ADDEND,
        beta_1: 0.0,
        beta_2: 0.0,
        max_gradient_norm: 1e9,
        ..Updates::default()
    }
}

/// `−mean over responses of A · Σ ℓ`, in 64-bit floats.
fn loss(agent: &Agent, buffer: &[JudgedGroup<'_>]) -> f64 {
    let lessons: Vec<f64> = buffer
        .iter()
        .flat_map(|judged| {
            let logprobs = score_group(&agent.model, &judged.packed().unwrap(), 1.0).unwrap();
            let values: Vec<f32> = logprobs.into_data().try_into_vec().unwrap();
            let mut rest = values.as_slice();
            let lessons = judged.lessons().map(|lesson| {
                let (own, others) = rest.split_at(lesson.sample.response.tokens.len());
                rest = others;
                lesson.advantage * own.iter().map(|&l| f64::from(l)).sum::<f64>()
            });
            lessons.collect::<Vec<_>>()
        })
        .collect();
    -lessons.iter().sum::<f64>() / lessons.len() as f64
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

#[test]
fn the_step_follows_the_gradient_that_finite_differences_give() {
    let before = agent("a");
    let (one, two) = (group(&before, 3), group(&before, 90));
    let buffer = [judged(&one, [1.0, -0.5]), judged(&two, [-2.0, 0.25])];
    let mut after = agent("a");
    let updates = Updates {
        buffer: 2,
        minibatch: 2,
        ..plain_descent()
    };
    let report = run(&mut after, &buffer, &updates).unwrap();
    let gradient: Vec<Vec<f64>> = moved(&before, &after)
        .iter()
        .map(|step| step.iter().map(|d| -d).collect())
        .collect();
    assert!(
        (norm(&gradient) / report.gradient_norm - 1.0).abs() < 1e-3,
        "{report:?}"
    );

    let at = |weight: usize, index: usize, by: f32| {
        let model = changed(&before.model, weight, index, |value| value + by);
        loss(&Agent::new("a", model, before.language.clone()), &buffer)
    };
    for (weight, gradient) in gradient.iter().enumerate().step_by(3) {
        let steepest =
            (0..gradient.len()).max_by(|&a, &b| gradient[a].abs().total_cmp(&gradient[b].abs()));
        let largest = gradient[steepest.unwrap()].abs();
        for index in [steepest.unwrap(), gradient.len() / 3] {
            let by = 2e-3;
            let slope = (at(weight, index, by) - at(weight, index, -by)) / f64::from(2.0 * by);
            let error = (slope - gradient[index]).abs();
            assert!(
                error <= DERIVATIVE_TOLERANCE * largest,
                "weight {weight}, {index}: {} is not {slope}",
                gradient[index]
            );
        }
    }
}

#[test]
fn long_gradients_are_shortened_and_short_ones_kept() {
    let before = agent("a");
    let group = group(&before, 3);
    let step = |max_gradient_norm| {
        let mut after = agent("a");
        let updates = Updates {
            max_gradient_norm,
            ..plain_descent()
        };
        let report = run(&mut after, &[judged(&group, [1.0, -1.0])], &updates).unwrap();
        (norm(&moved(&before, &after)), report.gradient_norm)
    };
    let (free, full) = step(1e9);
    assert!((free / full - 1.0).abs() < 1e-3, "{free} is not {full}");
    assert!(full > 1.0, "the test needs a long gradient: {full}");
    let (clipped, reported) = step(0.5);
    assert!((clipped - 0.5).abs() < 1e-3, "{clipped} is not 0.5");
    assert!(
        (reported / full - 1.0).abs() < 1e-6,
        "the norm before clipping is reported"
    );
}

#[test]
fn steps_follow_the_equations_of_adamw() {
    let updates = Updates {
        learning_rate: 1e-3,
        warmup_updates: 1,
        beta_1: 0.8,
        beta_2: 0.95,
        epsilon: 1e-2,
        weight_decay: 0.1,
        max_gradient_norm: 2.0,
        logprob_tolerance: 1e3,
        ..Updates::default()
    };
    let mut own = agent("a");
    let group = group(&own, 3);
    let buffer = [judged(&group, [1.0, -1.0])];
    let flat = |agent: &Agent| -> Vec<f64> {
        let weights = weights(&agent.model).into_iter();
        weights
            .flat_map(|(_, values)| values)
            .map(f64::from)
            .collect()
    };
    let (mut first, mut second) = (vec![0.0; flat(&own).len()], vec![0.0; flat(&own).len()]);
    for step in 1..=3 {
        let before = Agent::new("a", own.model.clone(), own.language.clone());
        // The same weights, moved by minus the clipped gradient.
        let mut moved_plainly = Agent::new("a", own.model.clone(), own.language.clone());
        let clipped = Updates {
            max_gradient_norm: 2.0,
            logprob_tolerance: 1e3,
            ..plain_descent()
        };
        run(&mut moved_plainly, &buffer, &clipped).unwrap();
        run(&mut own, &buffer, &updates).unwrap();

        let rate = 1e-3 * (f64::from(step) / 2.0).min(1.0);
        let gradient = moved(&before, &moved_plainly).concat();
        for (index, (old, new)) in flat(&before).into_iter().zip(flat(&own)).enumerate() {
            let g = -gradient[index];
            first[index] = 0.8 * first[index] + 0.2 * g;
            second[index] = 0.95 * second[index] + 0.05 * g * g;
            let m = first[index] / (1.0 - 0.8f64.powi(step));
            let v: f64 = second[index] / (1.0 - 0.95f64.powi(step));
            let expected = (1.0 - rate * 0.1) * old - rate * m / (v.sqrt() + 1e-2);
            assert!(
                (new - expected).abs() < 1e-6,
                "step {step}: {new} is not {expected}"
            );
        }
    }
}
