//! One training step, top down: rollout → rewards → learn (returns → advantages → log-probabilities →
//! loss → update) → metrics. The algorithm decides how to learn.

use std::time::Instant;

use polyphony_episode::{Counter, Environment, Metric, MetricKey};
use serde::{Deserialize, Serialize};

use crate::{
    MarlError,
    algorithm::{Algorithm, EnvironmentSpec, Progress, StepContext},
    config::TrainingConfig,
    metrics::{merge_metrics, reward_metrics, role_metrics},
    rollout::{Rollout, rollout},
    tasks::Batch,
    team::Team,
    traffic::{Message, TrafficTotal},
    tree::RoleGroup,
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
/// have been [built](crate::AlgorithmSettings::build) for the agents of this process and their
/// [spec](EnvironmentSpec::of_team).
///
/// If several ranks train the team, all of them run the step. Rank 0 gets all metrics and the whole rollout; the
/// other ranks get only what they need for their agents.
///
/// # Errors
/// See [`MarlError`]. If one rank fails, all of them do. Until [`Progress::RolloutDone`], an error leaves
/// everything unchanged. After a later error, other agents may already have been updated; the agent whose update
/// failed keeps the weights of its last gradient step.
pub fn train_step(
    team: &mut Team,
    algorithm: &mut dyn Algorithm,
    environment: &dyn Environment,
    batch: Batch<'_>,
    config: &TrainingConfig,
    step: usize,
    on_progress: &mut dyn FnMut(Progress),
) -> Result<Step, MarlError> {
    config.validate()?;
    let counters_before = environment.counters();
    let traffic_before = team.ranks().traffic();
    let plan = algorithm.sampling_plan();

    let start = Instant::now();
    let mut on_tokens = |tokens| on_progress(Progress::Sampled(tokens));
    let mut rollout = rollout(
        team,
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
    let spec = EnvironmentSpec::of_team(team, environment);
    let context = StepContext::new(step, config, &spec);
    let outcome = learn(
        team,
        algorithm,
        environment,
        &mut rollout,
        &context,
        on_progress,
    );
    let algorithm_metrics = team.ranks().world().agree(outcome)?;
    let update_secs = start.elapsed().as_secs_f64();

    let algorithm_metrics = merge_parts(team, environment, &mut rollout, algorithm_metrics)?;
    let rank = RankReport {
        rollout_secs,
        reward_secs: rollout.reward_secs,
        update_secs,
        counters: growth(&counters_before, environment.counters()),
        traffic: team.ranks().traffic().since(&traffic_before),
    };
    let ranks = team.ranks().world().collect(Message::Records, rank)?;

    let growth = total_growth(&ranks).into_iter();
    let (timed, counts): (Vec<_>, Vec<_>) = growth.partition(|metric| metric.key.is_timing());
    team_metrics.extend(counts);
    let role_metrics = role_metrics(environment, &rollout, &plan);
    let tokens = rollout.completion_tokens() as f64;
    let mut timing = timing(rollout_secs, rollout.reward_secs, update_secs, tokens);
    timing.extend(rank_metrics(&ranks));
    timing.extend(timed);
    Ok(Step {
        metrics: merge_metrics(team_metrics, role_metrics, algorithm_metrics, timing),
        rollout,
    })
}

/// Lets the algorithm learn. It sees the agents of this rank, and their part of the rollout.
fn learn(
    team: &mut Team,
    algorithm: &mut dyn Algorithm,
    environment: &dyn Environment,
    rollout: &mut Rollout,
    context: &StepContext<'_>,
    on_progress: &mut dyn FnMut(Progress),
) -> Result<Vec<Metric>, MarlError> {
    let roles = environment.roles().len();
    let held_roles = team.roles(roles);
    if held_roles.len() == roles {
        return algorithm.learn(team, rollout, context, on_progress);
    }
    let mut held_rollout = rollout.of_roles(held_roles.clone());
    let metrics = algorithm.learn(team, &mut held_rollout, context, on_progress)?;
    rollout.set_groups(
        held_roles.clone(),
        held_rollout.groups_by_node(0..held_roles.len()),
    );
    Ok(metrics)
}

/// What rank 0 needs to know about a part of the team after a step.
#[derive(Serialize, Deserialize)]
struct PartReport {
    /// The groups of the part's roles, by node, with what the algorithm has added.
    groups: Vec<Vec<RoleGroup>>,
    /// The algorithm's metrics.
    metrics: Vec<Metric>,
}

/// On rank 0, completes the rollout and returns the algorithm's metrics about all parts. On other ranks, returns
/// those about the rank's own part.
fn merge_parts(
    team: &Team,
    environment: &dyn Environment,
    rollout: &mut Rollout,
    held_metrics: Vec<Metric>,
) -> Result<Vec<Metric>, MarlError> {
    let ranks = team.ranks();
    if ranks.grid().parts == 1 {
        return Ok(held_metrics);
    }
    let part = PartReport {
        groups: rollout.groups_by_node(team.roles(environment.roles().len())),
        metrics: held_metrics.clone(),
    };
    let mut metrics: Vec<Metric> = Vec::new();
    for (index, part) in ranks
        .collect_parts(Message::Records, part)?
        .into_iter()
        .enumerate()
    {
        rollout.set_groups(
            team.roles_of_part(index, environment.roles().len()),
            part.groups,
        );
        // A metric of the whole team is that of the first part.
        let is_new = |metric: &Metric| !metrics.iter().any(|known| known.key == metric.key);
        let new: Vec<Metric> = part.metrics.into_iter().filter(is_new).collect();
        metrics.extend(new);
    }
    Ok(if ranks.is_first() {
        metrics
    } else {
        held_metrics
    })
}

/// What rank 0 needs to know about each rank after a step.
#[derive(Serialize, Deserialize)]
struct RankReport {
    rollout_secs: f64,
    reward_secs: f64,
    update_secs: f64,
    /// What the environment of this rank has counted in the step.
    counters: Vec<Counter>,
    /// What this rank has sent in the step.
    traffic: TrafficTotal,
}

/// How much each counter has grown.
fn growth(before: &[Counter], now: Vec<Counter>) -> Vec<Counter> {
    let growth = now.into_iter().map(|now| {
        let before = before.iter().find(|before| before.key == now.key);
        Counter {
            total: now.total - before.map_or(0.0, |before| before.total),
            ..now
        }
    });
    growth.collect()
}

/// The growth of each counter over all ranks.
fn total_growth(ranks: &[RankReport]) -> Vec<Metric> {
    let mut totals: Vec<Counter> = Vec::new();
    for counter in ranks.iter().flat_map(|rank| &rank.counters) {
        match totals.iter_mut().find(|total| total.key == counter.key) {
            Some(total) => total.total += counter.total,
            None => totals.push(counter.clone()),
        }
    }
    totals.iter().map(|total| total.since(0.0)).collect()
}

/// Where the time of each rank went, and what all of them have sent; nothing if there is only one rank.
fn rank_metrics(ranks: &[RankReport]) -> Vec<Metric> {
    if ranks.len() < 2 {
        return Vec::new();
    }
    let mut metrics = Vec::new();
    for (rank, report) in ranks.iter().enumerate() {
        let secs = report.traffic.time.as_secs_f64();
        for (name, value, meaning) in [
            (
                "rollout_secs",
                report.rollout_secs,
                "Sampling and scoring on this rank",
            ),
            (
                "reward_secs",
                report.reward_secs,
                "Scoring by the environment on this rank",
            ),
            (
                "update_secs",
                report.update_secs,
                "Updates of the agents of this rank",
            ),
            (
                "communication_secs",
                secs,
                "Communication of this rank, and waiting for the others",
            ),
        ] {
            let key = MetricKey::new(format!("timing.rank_{rank}.{name}"));
            metrics.push(Metric::new(key, value, "s", meaning));
        }
    }
    for kind in Message::ALL {
        let bytes: u64 = ranks
            .iter()
            .map(|rank| rank.traffic.bytes[kind as usize])
            .sum();
        metrics.push(Metric::new(
            MetricKey::new(format!("timing.sent_bytes.{}", kind.name())),
            bytes,
            "bytes",
            kind.meaning(),
        ));
    }
    metrics
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
mod ranks_tests;
#[cfg(test)]
mod tests;
