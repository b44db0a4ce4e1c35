//! An algorithm of your own: only the rank of a response within its group counts.
//!
//! `A_g = w · (2 · rank_g / (G − 1) − 1)`: the advantage is −w for the lowest credit of a group of `G`
//! responses, which has rank 0, and w for the highest. Equal credits share the mean of their ranks. Ranks
//! have no unit, so a reward with large outliers does no harm.
//!
//! Each agent has a weight `w`, which begins at 1. In each step, `w` moves a part of the way to a target. The
//! target is 1 plus the fraction of the role's groups that are skipped: all their credits are equal, so
//! there is nothing to rank. `weight_rate` is the size of that part, from 0 to 1. An agent that plays several
//! roles moves its weight once for each role. A checkpoint saves the weights together with the state of the
//! learners.
//!
//! Everything except ranks and weights reuses the public parts of `polyphony::marl`.

use polyphony::{
    episode::{Metric, MetricKey},
    marl::{
        Agent, AgentSpec, Algorithm, AlgorithmMemory, AlgorithmSettings, AlgorithmState,
        ConfigError, Credit, EnvironmentSpec, JointMode, Learners, MAX_SAMPLES, MarlError, Node,
        PolicyLoss, Progress, RoleGroup, Rollout, SamplingPlan, SavedState, StepContext,
        TrainingConfig, advantages_are_zero, agent_of_role, credits, role_returns,
    },
};
use serde::{Deserialize, Serialize};

/// The settings, as a recipe gives them: `RankBased(samples: 8)`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RankBased {
    /// Responses that each agent samples at a node.
    samples: usize,
    /// The fraction of the way to its target that an agent's weight moves in a step; 0 keeps the weight at 1.
    weight_rate: f64,
}

impl Default for RankBased {
    fn default() -> Self {
        Self {
            samples: 8,
            weight_rate: 0.1,
        }
    }
}

impl AlgorithmSettings for RankBased {
    fn validate(&self, config: &TrainingConfig) -> Result<(), ConfigError> {
        if !(2..=MAX_SAMPLES).contains(&self.samples) {
            return Err(ConfigError::new(
                "samples",
                self.samples,
                "from 2 to 4096, since ranks compare responses",
            ));
        }
        if !(0.0..=1.0).contains(&self.weight_rate) {
            return Err(ConfigError::new(
                "weight_rate",
                self.weight_rate,
                "from 0 to 1",
            ));
        }
        PolicyLoss::default().validate(&config.updates)
    }

    fn validate_for(&self, spec: &EnvironmentSpec) -> Result<(), ConfigError> {
        self.sampling_plan()
            .validate_for(spec.roles.len(), spec.horizon)
    }

    fn method(&self, _roles: usize) -> String {
        "ranks".to_owned()
    }

    fn sampling_plan(&self) -> SamplingPlan {
        SamplingPlan {
            samples: self.samples,
            joint_mode: JointMode::Aligned,
            termination_threshold: None,
            discount: 1.0,
        }
    }

    fn memory(&self, agent: &AgentSpec, config: &TrainingConfig) -> AlgorithmMemory {
        agent.update_memory(self.samples, config)
    }

    fn build(
        &self,
        agents: &[Agent],
        _spec: &EnvironmentSpec,
        config: &TrainingConfig,
    ) -> Result<Box<dyn Algorithm>, MarlError> {
        self.validate(config)?;
        Ok(Box::new(Trainer {
            settings: self.clone(),
            learners: Learners::new(agents),
            weights: vec![1.0; agents.len()],
        }))
    }
}

/// The algorithm while it trains a team.
struct Trainer {
    settings: RankBased,
    learners: Learners,
    /// The factor by which each agent's advantages are multiplied, from 1 to 2.
    weights: Vec<f64>,
}

impl Algorithm for Trainer {
    fn sampling_plan(&self) -> SamplingPlan {
        AlgorithmSettings::sampling_plan(&self.settings)
    }

    fn learn(
        &mut self,
        agents: &mut [Agent],
        rollout: &mut Rollout,
        step: &StepContext<'_>,
        on_progress: &mut dyn FnMut(Progress),
    ) -> Result<Vec<Metric>, MarlError> {
        let team_size = agents.len();
        rollout.assign_advantages(|node, role| {
            let weight = self.weights[agent_of_role(team_size, role)];
            let advantages = rank_advantages(&credits_of(node, role)).into_iter();
            Ok(advantages.map(|advantage| weight * advantage).collect())
        })?;
        let loss = PolicyLoss::default();
        let mut metrics = self
            .learners
            .update(agents, rollout, &loss, step, on_progress)?;
        for (role, name) in step.spec.roles.iter().enumerate() {
            let groups = rollout.groups_of(&[role]);
            let skipped = groups.iter().filter(|group| is_skipped(group)).count();
            let fraction = skipped as f64 / groups.len().max(1) as f64;
            let weight = &mut self.weights[agent_of_role(team_size, role)];
            *weight += self.settings.weight_rate * (1.0 + fraction - *weight);
            metrics.push(Metric::new(
                MetricKey::new("rank_correlation").of_role(name),
                rank_correlation(rollout, role),
                "",
                "How well ranks agree with credits: their correlation over all responses",
            ));
        }
        Ok(metrics)
    }

    fn state(&self, agents: &[Agent]) -> Result<AlgorithmState, MarlError> {
        self.learners.state(agents, &self.weights)
    }

    fn restore(&mut self, agents: &[Agent], saved: &SavedState<'_>) -> Result<(), MarlError> {
        (self.learners, self.weights) = Learners::from_state(agents, saved)?;
        Ok(())
    }

    fn gradient_steps(&self) -> usize {
        self.learners.gradient_steps()
    }
}

/// The credit of each of a role's responses at a node.
fn credits_of(node: &Node, role: usize) -> Vec<f64> {
    let returns = role_returns(node, role, 1.0);
    credits(node, role, &returns, Credit::Mean)
}

/// The advantage of each credit, before the multiplication by the agent's weight.
fn rank_advantages(credits: &[f64]) -> Vec<f64> {
    let highest_rank = (credits.len() - 1).max(1) as f64;
    let rank = |credit: &f64| {
        let lower = credits.iter().filter(|other| *other < credit).count() as f64;
        let equal = credits.iter().filter(|other| *other == credit).count() as f64;
        lower + (equal - 1.0) / 2.0
    };
    credits
        .iter()
        .map(|credit| 2.0 * rank(credit) / highest_rank - 1.0)
        .collect()
}

/// Whether a group is skipped: no response ranks above another, so all advantages are 0.
fn is_skipped(group: &RoleGroup) -> bool {
    group
        .advantages()
        .is_some_and(|advantages| advantages_are_zero(&advantages))
}

/// The correlation of a role's advantages with its credits; NaN if all advantages or all credits are equal.
fn rank_correlation(rollout: &Rollout, role: usize) -> f64 {
    let mut pairs = Vec::new();
    for node in rollout.all_nodes() {
        let samples = &node.groups[role].samples;
        let advantages = samples.iter().filter_map(|sample| sample.advantage);
        pairs.extend(credits_of(node, role).into_iter().zip(advantages));
    }
    correlation(&pairs)
}

fn correlation(pairs: &[(f64, f64)]) -> f64 {
    let count = pairs.len() as f64;
    let mean = |value: fn(&(f64, f64)) -> f64| pairs.iter().map(value).sum::<f64>() / count;
    let (x, y) = (mean(|pair| pair.0), mean(|pair| pair.1));
    let sum = |product: &dyn Fn(f64, f64) -> f64| -> f64 {
        pairs
            .iter()
            .map(|pair| product(pair.0 - x, pair.1 - y))
            .sum()
    };
    sum(&|a, b| a * b) / (sum(&|a, _| a * a) * sum(&|_, b| b * b)).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_order_counts_and_ties_share_a_rank() {
        assert_eq!(rank_advantages(&[0.5, 9.0, 0.5]), [-0.5, 1.0, -0.5]);
        assert_eq!(rank_advantages(&[3.0, 3.0]), [0.0, 0.0]);
        assert_eq!(rank_advantages(&[1.0, 2.0, 900.0]), [-1.0, 0.0, 1.0]);
    }

    #[test]
    fn correlation_is_one_along_a_line() {
        let pairs = [(1.0, 2.0), (2.0, 4.0), (3.0, 6.0)];
        assert!((correlation(&pairs) - 1.0).abs() < 1e-12);
        assert!((correlation(&pairs.map(|(a, b)| (a, -b))) + 1.0).abs() < 1e-12);
    }
}
