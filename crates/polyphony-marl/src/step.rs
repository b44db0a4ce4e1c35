//! One training step, top down: rollout → rewards → learn (returns → advantages → log-probabilities →
//! loss → update) → metrics. The algorithm decides how to learn.

use std::time::Instant;

use polyphony_episode::{Environment, Metric, MetricKey};

use crate::{
    MarlError,
    agent::Agent,
    algorithm::{Algorithm, EnvironmentSpec, Progress, StepContext},
    config::TrainingConfig,
    metrics::{merge_metrics, reward_metrics, role_metrics},
    rollout::{Rollout, rollout},
    tasks::Batch,
};

/// A step's metrics and the rollout that it learned from.
#[derive(Clone, Debug)]
pub struct Step {
    /// The metrics of the step, in the order in which they are written.
    pub metrics: Vec<Metric>,
    /// What the agents answered and earned.
    pub rollout: Rollout,
}

impl Step {
    /// The value of a metric by its name in files, such as `return`; `None` if the step has no such metric or
    /// its value is missing or not finite.
    pub fn metric(&self, name: &str) -> Option<f64> {
        let metric = self
            .metrics
            .iter()
            .find(|metric| metric.key.to_string() == name);
        metric.and_then(|metric| metric.value.number())
    }
}

/// Runs one step: plays the batch and lets the algorithm learn from it. `step` is counted from 0.
///
/// The team has one agent for each of the environment's roles, or one that plays them all. The algorithm must
/// have been [built](crate::AlgorithmSettings::build) for these agents.
///
/// # Errors
/// See [`MarlError`]. Until [`Progress::RolloutDone`], an error leaves everything unchanged. After a later
/// error, other agents may already have been updated; the agent whose update failed keeps the weights of its
/// last gradient step.
pub fn train_step(
    agents: &mut [Agent],
    algorithm: &mut dyn Algorithm,
    environment: &dyn Environment,
    batch: Batch<'_>,
    config: &TrainingConfig,
    step: usize,
    on_progress: &mut dyn FnMut(Progress),
) -> Result<Step, MarlError> {
    config.validate()?;
    let counters_before = environment.counters();
    let plan = algorithm.sampling_plan();

    let start = Instant::now();
    let mut on_tokens = |tokens| on_progress(Progress::Sampled(tokens));
    let mut rollout = rollout(
        agents,
        environment,
        batch,
        &plan,
        config,
        step,
        &mut on_tokens,
    )?;
    let rollout_secs = start.elapsed().as_secs_f64();
    // Computed here, before the algorithm can change the rollout.
    let mut team_metrics = reward_metrics(environment, &rollout, &plan);

    on_progress(Progress::RolloutDone);
    let start = Instant::now();
    let spec = EnvironmentSpec::of(environment);
    let context = StepContext::new(step, config, &spec);
    let algorithm_metrics = algorithm.learn(agents, &mut rollout, &context, on_progress)?;
    let update_secs = start.elapsed().as_secs_f64();

    let growth = environment.counters().into_iter().map(|now| {
        let before = counters_before.iter().find(|before| before.key == now.key);
        now.since(before.map_or(0.0, |before| before.total))
    });
    let (timed, counts): (Vec<_>, Vec<_>) = growth.partition(|metric| metric.key.is_timing());
    team_metrics.extend(counts);
    let role_metrics = role_metrics(environment, &rollout, &plan);
    let tokens = rollout.completion_tokens() as f64;
    let mut timing = timing(rollout_secs, rollout.reward_secs, update_secs, tokens);
    timing.extend(timed);
    Ok(Step {
        metrics: merge_metrics(team_metrics, role_metrics, algorithm_metrics, timing),
        rollout,
    })
}

fn timing(rollout_secs: f64, reward_secs: f64, update_secs: f64, tokens: f64) -> Vec<Metric> {
    let metric = |name, value, unit, meaning: &'static str| {
        Metric::new(MetricKey::new(name), value, unit, meaning)
    };
    let tokens_per_sec = tokens / (rollout_secs - reward_secs);
    vec![
        metric(
            "timing.rollout_secs",
            rollout_secs,
            "s",
            "Sampling and scoring",
        ),
        metric(
            "timing.reward_secs",
            reward_secs,
            "s",
            "Scoring by the environment",
        ),
        metric(
            "timing.update_secs",
            update_secs,
            "s",
            "Updates of all agents",
        ),
        metric(
            "timing.tokens_per_sec",
            tokens_per_sec,
            "tokens/s",
            "Sampled tokens per second of sampling",
        ),
    ]
}

#[cfg(test)]
mod tests;
