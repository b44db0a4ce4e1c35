//! The range of every number: what is refused, with which message, and what is still allowed.

use super::*;
use crate::{
    advantage::{AdvantageScale, Baseline},
    algorithm::AlgorithmSettings,
    fixture::training,
    magrpo::Magrpo,
    policy_loss::{Kl, Objective},
    tree::{JointMode, SamplingPlan},
};

#[track_caller]
fn refused(outcome: Result<(), ConfigError>, expected: &str) {
    let message = outcome.expect_err(expected).to_string();
    assert_eq!(message, expected);
}

fn algorithm(change: impl FnOnce(&mut Magrpo)) -> Result<(), ConfigError> {
    let mut algorithm = Magrpo::default();
    change(&mut algorithm);
    algorithm.validate(&training(8))
}

fn updates(change: impl FnOnce(&mut Updates)) -> Result<(), ConfigError> {
    let mut updates = Updates::default();
    change(&mut updates);
    updates.validate()
}

#[test]
fn an_algorithm_out_of_range_is_explained() {
    const SAMPLES: &str = "from 2 to 4096, since a response is compared with the others of its \
                           group (1 only with `baseline: Zero`)";
    for samples in [0, 1, 4097, usize::MAX] {
        let expected = format!("`samples` is {samples}, but must be {SAMPLES}");
        refused(algorithm(|a| a.samples = samples), &expected);
    }
    let none = algorithm(|a| (a.samples, a.baseline) = (0, Baseline::Zero));
    refused(none, &format!("`samples` is 0, but must be {SAMPLES}"));
    for discount in [-0.1, 1.1, f64::NAN] {
        let expected = format!("`discount` is {discount}, but must be from 0 to 1");
        refused(algorithm(|a| a.discount = discount), &expected);
    }
    for threshold in [f64::NAN, f64::INFINITY] {
        let expected =
            format!("`termination_threshold` is {threshold}, but must be a number, or left out");
        refused(
            algorithm(|a| a.termination_threshold = Some(threshold)),
            &expected,
        );
    }
    for low in [0.0, 1.0, -0.1, f64::NAN] {
        let expected = format!("`objective.low` is {low}, but must be above 0 and below 1");
        let objective = Objective::Clipped { low, high: 0.2 };
        refused(algorithm(|a| a.objective = objective), &expected);
    }
    for number in [0.0, -0.1, f64::NAN, f64::INFINITY] {
        let expected = format!("`objective.high` is {number}, but must be a positive number");
        let objective = Objective::Clipped {
            low: 0.2,
            high: number,
        };
        refused(algorithm(|a| a.objective = objective), &expected);
        let expected = format!("`kl.coefficient` is {number}, but must be a positive number");
        let coefficient = number;
        for kl in [Kl::Loss { coefficient }, Kl::Reward { coefficient }] {
            refused(algorithm(|a| a.kl = kl), &expected);
        }
    }
    for floor in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let scale = AdvantageScale::StandardDeviation { floor };
        let expected = format!("`advantage_scale.floor` is {floor}, but must be a positive number");
        refused(algorithm(|a| a.advantage_scale = scale), &expected);
    }
}

#[test]
fn updates_out_of_range_are_explained() {
    type Number = fn(&mut Updates) -> &mut f64;
    let rows: [(&str, Number, &[f64], &str); 7] = [
        (
            "learning_rate",
            |u| &mut u.learning_rate,
            &[0.0, -1e-5, 1.1],
            "above 0 and at most 1",
        ),
        (
            "beta_1",
            |u| &mut u.beta_1,
            &[-0.1, 1.0, 1.0 - 1e-9],
            "from 0 to below 1, also as a 32-bit float",
        ),
        (
            "beta_2",
            |u| &mut u.beta_2,
            &[-0.1, 1.0, 1.0 - 1e-9],
            "from 0 to below 1, also as a 32-bit float",
        ),
        (
            "epsilon",
            |u| &mut u.epsilon,
            &[0.0, -1.0, 1e-39],
            "a positive number that 32-bit floats can hold",
        ),
        (
            "weight_decay",
            |u| &mut u.weight_decay,
            &[-0.1],
            "0 or more",
        ),
        (
            "max_grad_norm",
            |u| &mut u.max_grad_norm,
            &[0.0, -1.0],
            "a positive number",
        ),
        (
            "logprob_tolerance",
            |u| &mut u.logprob_tolerance,
            &[0.0, -1.0],
            "a positive number",
        ),
    ];
    for (key, number, values, allowed) in rows {
        for &value in values.iter().chain(&[f64::NAN, f64::INFINITY]) {
            let expected = format!("`{key}` is {value}, but must be {allowed}");
            refused(updates(|u| *number(u) = value), &expected);
        }
    }
    type Count = fn(&mut Updates) -> &mut usize;
    let rows: [(&str, Count); 4] = [
        ("buffer", |u| &mut u.buffer),
        ("minibatch", |u| &mut u.minibatch),
        ("epochs", |u| &mut u.epochs),
        ("max_skipped_updates", |u| &mut u.max_skipped_updates),
    ];
    for (key, count) in rows {
        let expected = format!("`{key}` is 0, but must be at least 1");
        refused(updates(|u| *count(u) = 0), &expected);
    }
    refused(
        updates(|u| (u.buffer, u.minibatch) = (2, 3)),
        "`minibatch` is 3, but must be at most `buffer`, the number of nodes that an agent collects",
    );
}

#[test]
fn schedules_and_learning_rates_of_agents_out_of_range_are_explained() {
    for last in [-0.1, 1.1, f64::NAN] {
        let expected = format!("`schedule.last` is {last}, but must be from 0 to 1");
        for schedule in [LrSchedule::Linear { last }, LrSchedule::Cosine { last }] {
            refused(updates(|u| u.schedule = schedule), &expected);
        }
    }
    let outcome = updates(|u| u.learning_rates = [("poet".to_owned(), 2.0)].into());
    refused(
        outcome,
        "`learning_rates` is 2, but must be above 0 and at most 1",
    );
}

#[test]
fn a_tree_too_large_to_play_is_refused() {
    let check = |joint_mode, samples, roles, turns| {
        let plan = SamplingPlan {
            joint_mode,
            ..crate::fixture::plan(samples)
        };
        plan.validate_for(roles, turns)
    };
    let (aligned, cross) = (JointMode::Aligned, JointMode::Cross);
    for (mode, samples, roles, turns) in [
        (aligned, 4096, 9, 1),
        (aligned, 256, 2, 2),
        (cross, 256, 2, 1),
        (cross, 4, 2, 4),
    ] {
        assert_eq!(check(mode, samples, roles, turns), Ok(()), "{mode:?}");
    }
    for (mode, samples, roles, turns) in [
        (aligned, 257, 2, 2),
        (cross, 257, 2, 1),
        (cross, 4, 2, 5),
        (cross, 4096, 99, 99),
    ] {
        let expected = format!(
            "`samples` is {samples} with `joint_mode: {mode:?}` for {roles} roles and {turns} \
             turns, but must be small enough that the tree of a task has at most 65536 joint \
             actions at its last turn"
        );
        refused(check(mode, samples, roles, turns), &expected);
    }
}

#[test]
fn a_policy_gradient_uses_samples_once() {
    let mut twice = training(8);
    twice.updates.epochs = 2;
    refused(
        Magrpo::default().validate(&twice),
        "`updates.epochs` is 2, but must be 1 with `objective: PolicyGradient`, which may use a sample \
         only once (`Clipped` may use it again)",
    );
    let clipped = Magrpo {
        objective: Objective::Clipped {
            low: 0.2,
            high: 0.2,
        },
        ..Magrpo::default()
    };
    assert_eq!(clipped.validate(&twice), Ok(()));
    assert_eq!(Magrpo::default().validate(&training(8)), Ok(()));
}

#[test]
fn learning_rates_warm_up_and_follow_their_schedule() {
    let rates = |schedule, steps: usize| {
        let updates = Updates {
            learning_rate: 1.0,
            warmup_steps: 3,
            schedule,
            learning_rates: [("poet".to_owned(), 0.5)].into(),
            ..Updates::default()
        };
        for step in 0..steps {
            let [poet, critic] = ["poet", "critic"].map(|agent| updates.rate(agent, step, steps));
            assert_eq!(poet, 0.5 * critic);
        }
        (0..steps)
            .map(|step| updates.rate("critic", step, steps))
            .collect::<Vec<_>>()
    };
    let constant = rates(LrSchedule::Constant, 6);
    assert_eq!(constant, [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]);
    let linear = rates(LrSchedule::Linear { last: 0.5 }, 7);
    assert_eq!(linear, [0.25, 0.5, 0.75, 1.0, 0.875, 0.75, 0.625]);
    let cosine = rates(LrSchedule::Cosine { last: 0.0 }, 7);
    let half = std::f64::consts::FRAC_1_SQRT_2 / 2.0;
    let expected = [0.25, 0.5, 0.75, 1.0, 0.5 + half, 0.5, 0.5 - half];
    for (rate, expected) in cosine.iter().zip(expected) {
        assert!((rate - expected).abs() < 1e-12, "{cosine:?}");
    }
    // A run that ends during its warm-up, and one that is longer than configured.
    assert_eq!(rates(LrSchedule::Linear { last: 0.0 }, 2), [0.25, 0.5]);
    let updates = Updates {
        learning_rate: 1.0,
        schedule: LrSchedule::Linear { last: 0.25 },
        ..Updates::default()
    };
    assert_eq!(updates.rate("critic", 9, 5), 0.25);
}

#[test]
fn the_ends_of_the_ranges_are_allowed() {
    assert_eq!(algorithm(|_| ()), Ok(()));
    assert_eq!(algorithm(|a| a.samples = 2), Ok(()));
    assert_eq!(
        algorithm(|a| (a.samples, a.baseline) = (1, Baseline::Zero)),
        Ok(())
    );
    for discount in [0.0, 1.0] {
        assert_eq!(algorithm(|a| a.discount = discount), Ok(()));
    }
    assert_eq!(updates(|_| ()), Ok(()));
    assert_eq!(
        updates(|u| (u.beta_1, u.beta_2, u.weight_decay) = (0.0, 0.0, 0.0)),
        Ok(())
    );
    assert_eq!(updates(|u| (u.buffer, u.minibatch) = (3, 3)), Ok(()));
}
