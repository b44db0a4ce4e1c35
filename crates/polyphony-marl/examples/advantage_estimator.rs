//! An algorithm with its own advantage estimator: only the rank of a response within its group counts.
//!
//! Ranks have no unit, so a reward with large outliers does no harm. Everything else reuses the parts of
//! MAGRPO: rollout, returns, credits, policy loss, update. Two copies of a tiny model with random weights
//! learn to answer with numbers that add up to a given sum.
//!
//! `cargo run -p polyphony-marl --example advantage_estimator`
#![allow(clippy::print_stdout, reason = "an example shows its result")]

use std::error::Error;

use polyphony_episode::{Metric, MetricKey, Task};
use polyphony_marl::{
    Agent, AgentSpec, Algorithm, AlgorithmMemory, AlgorithmSettings, AlgorithmState, ConfigError,
    Credit, EnvironmentSpec, JointMode, Learners, LongPrompts, MarlError, PolicyLoss, Progress,
    Rollout, SamplingPlan, SavedState, StepContext, TrainingConfig, Updates, credits, role_returns,
    start_tasks, train_step,
};
use polyphony_model::Sampling;
use polyphony_test_support::{games::Complement, team};
use serde::{Deserialize, Serialize};

/// The settings, as a recipe would give them: `algorithm: RankEstimator(samples: 8)`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RankEstimator {
    samples: usize,
}

impl Default for RankEstimator {
    fn default() -> Self {
        Self { samples: 8 }
    }
}

impl AlgorithmSettings for RankEstimator {
    fn validate(&self, config: &TrainingConfig) -> Result<(), ConfigError> {
        if self.samples < 2 {
            return Err(ConfigError::new("samples", self.samples, "at least 2"));
        }
        PolicyLoss::default().validate(&config.updates)
    }

    fn validate_for(&self, spec: &EnvironmentSpec) -> Result<(), ConfigError> {
        AlgorithmSettings::sampling_plan(self).validate_for(spec.roles.len(), spec.horizon)
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
        spec: &EnvironmentSpec,
        config: &TrainingConfig,
    ) -> Result<Box<dyn Algorithm>, MarlError> {
        self.validate(config)?;
        self.validate_for(spec)?;
        Ok(Box::new(Ranking {
            settings: self.clone(),
            learners: Learners::new(agents),
            best: f64::NEG_INFINITY,
        }))
    }
}

/// The algorithm while it trains: a learner per agent, and the best return so far.
struct Ranking {
    settings: RankEstimator,
    learners: Learners,
    best: f64,
}

impl Algorithm for Ranking {
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
        rollout.assign_advantages(|node, role| {
            let returns = role_returns(node, role, 1.0);
            let credits = credits(node, role, &returns, Credit::Mean);
            Ok(rank_advantages(&credits))
        })?;
        let loss = PolicyLoss::default();
        let mut metrics = self
            .learners
            .update(agents, rollout, &loss, step, on_progress)?;
        // A metric of this algorithm, which files and pages show with its unit and meaning.
        let returns = rollout
            .roots
            .iter()
            .flat_map(|node| role_returns(node, 0, 1.0));
        self.best = returns.fold(self.best, f64::max);
        metrics.push(Metric::new(
            MetricKey::new("best_return"),
            self.best,
            "reward",
            "Highest return of any joint action so far",
        ));
        Ok(metrics)
    }

    fn state(&self, agents: &[Agent]) -> Result<AlgorithmState, MarlError> {
        self.learners.state(agents, &self.best)
    }

    fn restore(&mut self, agents: &[Agent], saved: &SavedState<'_>) -> Result<(), MarlError> {
        (self.learners, self.best) = Learners::from_state(agents, saved)?;
        Ok(())
    }

    fn gradient_steps(&self) -> usize {
        self.learners.gradient_steps()
    }
}

/// The advantage of each credit: −1 for the lowest rank and 1 for the highest. Equal credits have the mean
/// of their ranks.
fn rank_advantages(credits: &[f64]) -> Vec<f64> {
    let highest_rank = (credits.len() - 1).max(1) as f64;
    let rank = |credit: &f64| {
        let lower = credits.iter().filter(|other| *other < credit).count() as f64;
        let equal = credits.iter().filter(|other| *other == credit).count() as f64;
        lower + (equal - 1.0) / 2.0
    };
    let advantage = |credit| 2.0 * rank(credit) / highest_rank - 1.0;
    credits.iter().map(advantage).collect()
}

fn main() -> Result<(), Box<dyn Error>> {
    assert_eq!(rank_advantages(&[0.5, 9.0, 0.5]), [-0.5, 1.0, -0.5]);
    let game = Complement::new();
    let mut team = team(&game);
    let config = TrainingConfig {
        seed: 1,
        steps: 60,
        sampling: Sampling::default(),
        max_new_tokens: 1,
        long_prompts: LongPrompts::Fail,
        updates: Updates {
            // Right for the tiny model; a real one needs about 1e-5.
            learning_rate: 3e-3,
            // One gradient step from the two tasks of a step.
            buffer: 2,
            minibatch: 2,
            ..Updates::default()
        },
    };
    let settings = RankEstimator::default();
    let mut algorithm = settings.build(&team, &EnvironmentSpec::of(&game), &config)?;
    let tasks = [("aaaa", "1"), ("zzzz", "3")]
        .map(|(call, sum)| Task::new(call, [("call", call), ("sum", sum)]));
    let tasks = start_tasks(&team, &game, tasks.into(), &config)?;
    for step in 0..config.steps {
        let result = train_step(
            &mut team,
            algorithm.as_mut(),
            &game,
            tasks.batch(&[0, 1]),
            &config,
            step,
            &mut |_| (),
        )?;
        if (step + 1) % 10 == 0 {
            let mean_return = result.metric("return").unwrap_or(f64::NAN);
            println!("step {:>2}: return {mean_return:.2}", step + 1);
        }
    }
    Ok(())
}
