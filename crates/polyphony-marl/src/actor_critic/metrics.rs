//! How well a role's critic predicted this step's returns.

use polyphony_episode::{Metric, MetricKey};

use crate::{advantage::standard_deviation, metrics::mean, tree::RoleGroup};

/// The metrics of a role's critic, given the mean loss of its update and the groups of this step.
pub(super) fn critic_metrics(
    role: &str,
    value_loss: Option<f64>,
    groups: &[&RoleGroup],
) -> Vec<Metric> {
    let (mut values, mut targets, mut advantages) = (Vec::new(), Vec::new(), Vec::new());
    for group in groups {
        let value = group.value.unwrap_or(f64::NAN);
        for sample in &group.samples {
            let advantage = sample.advantage.unwrap_or(f64::NAN);
            values.push(value);
            targets.push(value + advantage);
            advantages.push(advantage);
        }
    }
    let variance = |values: &[f64]| standard_deviation(values).powi(2);
    let target_variance = variance(&targets);
    let unexplained = variance(&advantages) / target_variance;
    let key = |name| MetricKey::new(name).of_role(role);
    vec![
        Metric::new(
            key("value_loss"),
            value_loss,
            "reward²",
            "Mean of the critic's squared error over the gradient steps, with clipped values",
        ),
        Metric::new(
            key("explained_variance"),
            (target_variance > 0.0).then_some(1.0 - unexplained),
            "fraction",
            "Fraction of the targets' variance that the critic predicted: 0 for a constant, 1 for all of it",
        ),
        Metric::new(
            key("value_mean"),
            mean(values),
            "reward",
            "Mean value that the critic gave the histories",
        ),
        Metric::new(
            key("value_target_mean"),
            mean(targets),
            "reward",
            "Mean target of the critic's values",
        ),
    ]
}
