//! MAGRPO: Multi-Agent Group Relative Policy Optimization, and its relatives.
//!
//! Source: "LLM Collaboration With Multi-Agent Reinforcement Learning", AAAI 2026, arXiv 2508.04652;
//! the authors' code is PyPI `comlrl`. With one agent, MAGRPO is GRPO (arXiv 2402.03300), or Dr. GRPO (arXiv
//! 2503.20783) if advantages are not divided by the standard deviation.
//!
//! In reading order, for agent `i` and its `G` responses `a_g` at a node:
//!
//! 1. Returns: `R^(j) = r^(j) + γ · mean over the child node's joint actions of R`, where `r` is the shared
//!    reward, or that of the agent's role if roles have separate ones. With `kl: Reward`,
//!    `β Σ_τ (ℓ_τ^old − ℓ_τ^ref)` over the agent's own response is subtracted from each reward: `ℓ_τ` is
//!    the log-probability of token `τ`, at rollout (`old`) and under the reference model (`ref`).
//! 2. Credit: `c_g` = mean (or sum) of `R^(j)` over the joint actions that contain `a_g`.
//! 3. Advantage: `A_g = (c_g − b) / s`, with `b` the group's mean (MAGRPO), the mean of the others
//!    (MARLOO), the maximum (MAReMax) or 0 (MAREINFORCE), and `s` 1 or the standard deviation.
//! 4. Loss: `L = − mean over responses of A_g · Σ_τ ℓ_τ`, or clipped as in PPO, with the options of
//!    [`PolicyLoss`]. `ℓ` comes from logits divided by the sampling temperature, in 32-bit floats.
//! 5. Update: AdamW, per agent, from its buffer in minibatches.
//!
//! Departures from the authors' code, and why:
//!
//! - Normalizing an advantage only divides it by the standard deviation. The authors also subtract the mean a
//!   second time, which turns the three relatives into MAGRPO.
//! - Advantages are normalized within a group, never over different tasks, whose rewards have different
//!   scales.
//! - The end-of-sequence token is trained, so that agents learn when to stop.
//! - Log-probabilities are those at the sampling temperature, so that the gradient belongs to the policy that
//!   acted.
//! - A gradient step whose loss is not finite is skipped and counted. The authors replace the loss with 0.1.
//! - Weight decay is off by default.
//! - Several passes over the same samples need the clipped objective. Its ratio corrects for samples that
//!   older weights drew.
//!
//! `docs/parity.md` has the whole list.

use polyphony_episode::Metric;
use polyphony_model::LanguageModel;
use serde::{Deserialize, Serialize};

use crate::{
    MarlError,
    advantage::{AdvantageScale, Baseline, advantages},
    agent::Agent,
    algorithm::{
        AgentSpec, Algorithm, AlgorithmMemory, AlgorithmSettings, EnvironmentSpec, MemoryNeed,
        Progress, StepContext,
    },
    config::{ConfigError, TrainingConfig, check, fraction, positive},
    learners::Learners,
    policy_loss::{Aggregation, Kl, Objective, PolicyLoss},
    reference::{references, score_references},
    returns::{Credit, credits, penalized_returns, role_returns},
    rollout::Rollout,
    saved_state::{AlgorithmState, SavedState},
    tree::{JointMode, MAX_SAMPLES, Node, SamplingPlan},
};

/// The settings of MAGRPO and its relatives: what is sampled and what is maximized.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Magrpo {
    /// Responses that are sampled for each role at a node, `G`.
    pub samples: usize,
    /// How the agents' responses are combined into joint actions.
    pub joint_mode: JointMode,
    /// How the returns of the joint actions that contain a response are combined into its credit.
    pub credit: Credit,
    /// The discount `γ` of later turns' returns.
    pub discount: f64,
    /// An episode ends at a node whose joint actions earn more than this on average.
    pub termination_threshold: Option<f64>,
    /// What is subtracted from credits.
    pub baseline: Baseline,
    /// What advantages are divided by, `s`.
    pub advantage_scale: AdvantageScale,
    /// What is maximized.
    pub objective: Objective,
    /// What keeps policies near their start.
    pub kl: Kl,
    /// How token terms are summed up.
    pub aggregation: Aggregation,
    /// Excludes truncated responses, those that the length limit cut off, from the loss.
    pub mask_truncated: bool,
}

impl Default for Magrpo {
    fn default() -> Self {
        Self {
            samples: 4,
            joint_mode: JointMode::default(),
            credit: Credit::default(),
            discount: 1.0,
            termination_threshold: None,
            baseline: Baseline::default(),
            advantage_scale: AdvantageScale::default(),
            objective: Objective::default(),
            kl: Kl::default(),
            aggregation: Aggregation::default(),
            mask_truncated: false,
        }
    }
}

impl Magrpo {
    /// The loss of an agent's responses.
    pub fn policy_loss(&self) -> PolicyLoss {
        PolicyLoss {
            objective: self.objective,
            kl: self.kl,
            aggregation: self.aggregation,
            mask_truncated: self.mask_truncated,
        }
    }

    /// The advantage of each of a role's responses at a node.
    ///
    /// # Errors
    /// If a divergence is subtracted from rewards, but no reference has scored the responses.
    pub fn advantages(&self, node: &Node, role: usize) -> Result<Vec<f64>, MarlError> {
        let returns = match self.kl {
            Kl::Reward { coefficient } => {
                penalized_returns(node, role, self.discount, coefficient)?
            }
            Kl::Off | Kl::Loss { .. } => role_returns(node, role, self.discount),
        };
        let credits = credits(node, role, &returns, self.credit);
        Ok(advantages(&credits, self.baseline, self.advantage_scale))
    }
}

impl AlgorithmSettings for Magrpo {
    fn validate(&self, config: &TrainingConfig) -> Result<(), ConfigError> {
        let least = match self.baseline {
            Baseline::Zero => 1,
            _ => 2,
        };
        check(
            (least..=MAX_SAMPLES).contains(&self.samples),
            "samples",
            self.samples,
            "from 2 to 4096, since a response is compared with the others of its group (1 only \
             with `baseline: Zero`)",
        )?;
        fraction("discount", self.discount)?;
        if let AdvantageScale::StandardDeviation { floor } = self.advantage_scale {
            positive("advantage_scale.floor", floor)?;
        }
        if let Some(threshold) = self.termination_threshold {
            let allowed = "a number, or left out";
            check(
                threshold.is_finite(),
                "termination_threshold",
                threshold,
                allowed,
            )?;
        }
        self.policy_loss().validate(&config.updates)
    }

    fn validate_for(&self, spec: &EnvironmentSpec) -> Result<(), ConfigError> {
        AlgorithmSettings::sampling_plan(self).validate_for(spec.roles.len(), spec.horizon)
    }

    fn method(&self, roles: usize) -> String {
        let name = match (roles, self.baseline) {
            (1, Baseline::GroupMean) => "GRPO",
            (_, Baseline::GroupMean) => "MAGRPO",
            (_, Baseline::LeaveOneOut) => "MARLOO",
            (_, Baseline::GroupMax) => "MAReMax",
            (_, Baseline::Zero) => "MAREINFORCE",
        };
        name.to_owned()
    }

    fn sampling_plan(&self) -> SamplingPlan {
        SamplingPlan {
            samples: self.samples,
            joint_mode: self.joint_mode,
            termination_threshold: self.termination_threshold,
            discount: self.discount,
        }
    }

    fn memory(&self, agent: &AgentSpec, config: &TrainingConfig) -> AlgorithmMemory {
        let mut memory = agent.update_memory(self.samples, config);
        if self.kl != Kl::Off {
            let reference = MemoryNeed::new("reference", agent.reference_bytes());
            memory.lasting.insert(0, reference);
        }
        memory
    }

    fn build(
        &self,
        agents: &[Agent],
        spec: &EnvironmentSpec,
        config: &TrainingConfig,
    ) -> Result<Box<dyn Algorithm>, MarlError> {
        config.validate()?;
        self.validate(config)?;
        self.validate_for(spec)?;
        Ok(Box::new(Trainer {
            settings: self.clone(),
            references: match self.kl {
                Kl::Off => Vec::new(),
                Kl::Loss { .. } | Kl::Reward { .. } => references(agents),
            },
            learners: Learners::new(agents),
        }))
    }
}

/// MAGRPO while it trains a team.
struct Trainer {
    settings: Magrpo,
    /// One per agent; empty if no divergence is measured.
    references: Vec<LanguageModel>,
    learners: Learners,
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
        score_references(agents, &self.references, rollout, step.config.temperature())?;
        rollout.assign_advantages(|node, role| self.settings.advantages(node, role))?;
        let loss = self.settings.policy_loss();
        self.learners
            .update(agents, rollout, &loss, step, on_progress)
    }

    fn state(&self, agents: &[Agent]) -> Result<AlgorithmState, MarlError> {
        // Nothing needs to be saved besides the learners.
        self.learners.state(agents, &())
    }

    fn restore(&mut self, agents: &[Agent], saved: &SavedState<'_>) -> Result<(), MarlError> {
        (self.learners, ()) = Learners::from_state(agents, saved)?;
        Ok(())
    }

    fn gradient_steps(&self) -> usize {
        self.learners.gradient_steps()
    }
}

#[cfg(test)]
mod tests;
