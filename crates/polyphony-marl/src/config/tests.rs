//! Every number's range: what is refused, in which words, and what lies just inside.

use super::*;

#[track_caller]
fn refused(outcome: Result<(), ConfigError>, expected: &str) {
    let message = outcome.expect_err(expected).to_string();
    assert_eq!(message, expected);
}

fn algorithm(change: impl FnOnce(&mut Algorithm)) -> Result<(), ConfigError> {
    let mut algorithm = Algorithm::default();
    change(&mut algorithm);
    algorithm.validate()
}

fn updates(change: impl FnOnce(&mut Updates)) -> Result<(), ConfigError> {
    let mut updates = Updates::default();
    change(&mut updates);
    updates.validate()
}

#[test]
fn an_algorithm_out_of_range_is_explained() {
    const SAMPLES: &str = "from 2 to 4096, since a response is judged against the others of its \
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
            "max_gradient_norm",
            |u| &mut u.max_gradient_norm,
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
    let rows: [(&str, Count); 3] = [
        ("buffer", |u| &mut u.buffer),
        ("minibatch", |u| &mut u.minibatch),
        ("max_nonfinite", |u| &mut u.max_nonfinite),
    ];
    for (key, count) in rows {
        let expected = format!("`{key}` is 0, but must be at least 1");
        refused(updates(|u| *count(u) = 0), &expected);
    }
    refused(
        updates(|u| (u.buffer, u.minibatch) = (2, 3)),
        "`minibatch` is 3, but must be at most `buffer`, the nodes that there are to choose from",
    );
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
