//! One training step, top down: rollout → rewards → learn (returns → advantages → log-probabilities →
//! loss → update) → metrics. How to learn is up to the algorithm.

use std::time::Instant;

use polyphony_episode::{Environment, Metric, MetricKey};

use crate::{
    MarlError,
    agent::Agent,
    algorithm::{Algorithm, EnvironmentSpec, Progress, StepContext},
    config::TrainingConfig,
    metrics::{joined, reward_metrics, role_metrics},
    rollout::{Rollout, rollout},
    tasks::Batch,
};

/// A step's figures and the rollout that it learned from.
#[derive(Clone, Debug)]
pub struct Step {
    /// The figures of the step, in the order in which they are written.
    pub metrics: Vec<Metric>,
    /// What the agents answered and earned.
    pub rollout: Rollout,
}

impl Step {
    /// The value of a metric by its name in files, such as `return`; `None` if there is none.
    pub fn metric(&self, name: &str) -> Option<f64> {
        let own = self
            .metrics
            .iter()
            .find(|metric| metric.key.to_string() == name);
        own.and_then(|metric| metric.value.number())
    }
}

/// Runs one step: plays the batch and lets the algorithm learn from it. `step` is counted from 0.
///
/// There is one agent for each of the environment's roles, or one that plays them all; the algorithm must
/// have been [built](crate::AlgorithmSettings::build) for them.
///
/// # Errors
/// See [`MarlError`]. Before [`Progress::Scored`] nothing has changed. Later, other agents may have been updated by then; the one that failed keeps the weights
/// of its last gradient step.
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
    let counted = environment.counters();
    let tree = algorithm.tree();

    let start = Instant::now();
    let mut on_tokens = |tokens| on_progress(Progress::Sampled(tokens));
    let mut rollout = rollout(
        agents,
        environment,
        batch,
        &tree,
        config,
        step,
        &mut on_tokens,
    )?;
    let rollout_secs = start.elapsed().as_secs_f64();
    // Before the algorithm changes anything in the rollout.
    let mut of_team = reward_metrics(environment, &rollout, &tree);

    on_progress(Progress::Scored);
    let start = Instant::now();
    let game = EnvironmentSpec::of(environment);
    let context = StepContext::new(step, config, &game);
    let learned = algorithm.learn(agents, &mut rollout, &context, on_progress)?;
    let update_secs = start.elapsed().as_secs_f64();

    let growth = environment.counters().into_iter().map(|now| {
        let before = counted.iter().find(|before| before.key == now.key);
        now.since(before.map_or(0.0, |before| before.total))
    });
    let (timed, counts): (Vec<_>, Vec<_>) = growth.partition(|metric| metric.key.is_timing());
    of_team.extend(counts);
    let of_roles = role_metrics(environment, &rollout, &tree);
    let sampled = rollout.completion_tokens() as f64;
    let mut timing = timing(rollout_secs, rollout.reward_secs, update_secs, sampled);
    timing.extend(timed);
    Ok(Step {
        metrics: joined(of_team, of_roles, learned, timing),
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
            "Sampled tokens by the seconds of sampling",
        ),
    ]
}

#[cfg(test)]
mod tests;
