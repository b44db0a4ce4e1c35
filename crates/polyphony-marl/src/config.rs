//! The choices that make up an algorithm. Every mode is an enum; every number is checked before a
//! run starts.

use std::{collections::BTreeMap, f64::consts::PI};

use polyphony_model::Activations;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// How agents' responses are combined into joint actions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum JointMode {
    /// Joint action `g` is every agent's `g`-th response: `G` of them.
    #[default]
    Aligned,
    /// Every combination of responses: `G^n` of them for `n` agents.
    Cross,
}

/// What a response earns that is part of several joint actions. Aligned joint actions
/// hold each response once, so that both are the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Credit {
    /// The mean of their returns, on the scale of the aligned mode.
    #[default]
    Mean,
    /// The sum of their returns, larger by `G^(n-1)`.
    Sum,
}

/// What is subtracted from an agent's credits within a group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Baseline {
    /// The group's mean: MAGRPO.
    #[default]
    GroupMean,
    /// The mean of the other credits: MARLOO.
    LeaveOneOut,
    /// The group's maximum: MAReMax.
    GroupMax,
    /// Nothing: MAREINFORCE.
    Zero,
}

/// What advantages are divided by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub enum AdvantageScale {
    /// Nothing, as Dr. GRPO proposes: dividing favours tasks nearly solved or nearly hopeless.
    #[default]
    Unscaled,
    /// The credits' population standard deviation, but at least `floor`.
    StandardDeviation {
        /// The smallest divisor.
        floor: f64,
    },
}

/// How a response's token terms become one number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Aggregation {
    /// Their sum (the paper).
    #[default]
    SequenceSum,
    /// Their sum divided by the number of tokens of all responses of the batch.
    TokenMean,
    /// Their sum divided by the longest response allowed.
    FixedLength,
}

/// What is maximized for each token of a response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub enum Objective {
    /// The advantage times the token's log-probability (the paper). For samples that are used once.
    #[default]
    PolicyGradient,
    /// The advantage times the ratio of the token's probability to that when it was sampled, no
    /// further than to `1 - low` and `1 + high`.
    Clipped {
        /// How far below 1 the ratio counts.
        low: f64,
        /// How far above 1 the ratio counts.
        high: f64,
    },
}

/// What keeps a policy near the one that it started from, its reference.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub enum Kl {
    /// Nothing. No reference is kept.
    #[default]
    Off,
    /// An addend of the loss: the estimator k3, whose gradient leads back to the reference.
    Loss {
        /// What the divergence is multiplied by.
        coefficient: f64,
    },
    /// Subtracted from the reward of the agent that strays: the estimator k1 over its response.
    Reward {
        /// What the divergence is multiplied by.
        coefficient: f64,
    },
}

/// How the learning rate goes on after the warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub enum Schedule {
    /// As it is.
    #[default]
    Constant,
    /// Along a line to a share of itself at the end of the run.
    Linear {
        /// That share.
        last: f64,
    },
    /// Along half a cosine to a share of itself at the end of the run.
    Cosine {
        /// That share.
        last: f64,
    },
}

/// The learning algorithm: what is sampled and what is maximized.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Algorithm {
    /// Responses that each agent samples at a node, `G`.
    pub samples: usize,
    /// How they are combined.
    pub joint_mode: JointMode,
    /// What a response earns that is part of several joint actions.
    pub credit: Credit,
    /// The discount `γ` of later turns' returns.
    pub discount: f64,
    /// An episode ends at a node whose joint actions earn more than this on average.
    pub termination_threshold: Option<f64>,
    /// What is subtracted from credits.
    pub baseline: Baseline,
    /// What advantages are divided by.
    pub advantage_scale: AdvantageScale,
    /// What is maximized.
    pub objective: Objective,
    /// What keeps policies near their start.
    pub kl: Kl,
    /// How token terms are summed up.
    pub aggregation: Aggregation,
    /// Leaves responses that the length limit cut out of the loss.
    pub mask_truncated: bool,
}

impl Default for Algorithm {
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

/// How weights are changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Updates {
    /// The learning rate after warm-up.
    pub learning_rate: f64,
    /// Other learning rates for the agents of these names.
    pub learning_rates: BTreeMap<String, f64>,
    /// Training steps over which the learning rate rises linearly to its full value.
    pub warmup_steps: usize,
    /// How it goes on from there.
    pub schedule: Schedule,
    /// AdamW's decay rate of the first moment.
    pub beta_1: f64,
    /// AdamW's decay rate of the second moment.
    pub beta_2: f64,
    /// AdamW's addend to the root of the second moment.
    pub epsilon: f64,
    /// AdamW's decoupled weight decay.
    pub weight_decay: f64,
    /// The largest norm of the gradient over all weights; longer ones are shortened to it.
    pub max_gradient_norm: f64,
    /// Nodes that an agent collects, over as many steps as that takes, before it updates.
    pub buffer: usize,
    /// Nodes of one gradient step.
    pub minibatch: usize,
    /// How often an update goes through the buffer.
    pub epochs: usize,
    /// Refused updates in a row, for a loss or gradient that is not finite, after which the run
    /// stops.
    pub max_nonfinite: usize,
    /// The largest difference allowed between the log-probability of a sampled token at rollout
    /// and in training, in nats.
    pub logprob_tolerance: f64,
    /// What a forward pass keeps for the backward pass.
    pub activations: Activations,
}

impl Default for Updates {
    fn default() -> Self {
        Self {
            learning_rate: 1e-5,
            learning_rates: BTreeMap::new(),
            warmup_steps: 0,
            schedule: Schedule::default(),
            beta_1: 0.9,
            beta_2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.0,
            max_gradient_norm: 1.0,
            buffer: 1,
            minibatch: 1,
            epochs: 1,
            max_nonfinite: 3,
            // GPUs multiply 32-bit floats with fewer digits: an H100 was off by up to 0.024.
            logprob_tolerance: 0.1,
            activations: Activations::default(),
        }
    }
}

/// A setting that cannot work.
#[derive(Clone, Debug, Error, PartialEq)]
#[error("`{key}` is {given}, but must be {allowed}")]
pub struct ConfigError {
    /// The setting's name.
    pub key: &'static str,
    /// What was given.
    pub given: String,
    /// What is allowed.
    pub allowed: &'static str,
}

/// The most responses to one prompt; more would be a mistake.
pub const MOST_SAMPLES: usize = 4096;

/// The most joint actions at the last turn of a task's tree; more would be a mistake.
pub const MOST_JOINT_ACTIONS: usize = 1 << 16;

fn check(
    holds: bool,
    key: &'static str,
    given: impl ToString,
    allowed: &'static str,
) -> Result<(), ConfigError> {
    if holds {
        Ok(())
    } else {
        Err(ConfigError {
            key,
            given: given.to_string(),
            allowed,
        })
    }
}

fn positive(key: &'static str, value: f64) -> Result<(), ConfigError> {
    check(
        value > 0.0 && value.is_finite(),
        key,
        value,
        "a positive number",
    )
}

fn not_negative(key: &'static str, value: f64) -> Result<(), ConfigError> {
    check(value >= 0.0 && value.is_finite(), key, value, "0 or more")
}

fn at_least_one(key: &'static str, value: usize) -> Result<(), ConfigError> {
    check(value >= 1, key, value, "at least 1")
}

impl Algorithm {
    /// Checks every number.
    ///
    /// # Errors
    /// Names the first setting that cannot work, what it is and what it may be.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let least = match self.baseline {
            Baseline::Zero => 1,
            _ => 2,
        };
        check(
            (least..=MOST_SAMPLES).contains(&self.samples),
            "samples",
            self.samples,
            "from 2 to 4096, since a response is judged against the others of its group (1 only \
             with `baseline: Zero`)",
        )?;
        check(
            (0.0..=1.0).contains(&self.discount),
            "discount",
            self.discount,
            "from 0 to 1",
        )?;
        if let AdvantageScale::StandardDeviation { floor } = self.advantage_scale {
            positive("advantage_scale.floor", floor)?;
        }
        if let Some(threshold) = self.termination_threshold {
            check(
                threshold.is_finite(),
                "termination_threshold",
                threshold,
                "a number, or left out",
            )?;
        }
        if let Objective::Clipped { low, high } = self.objective {
            check(
                low > 0.0 && low < 1.0,
                "objective.low",
                low,
                "above 0 and below 1",
            )?;
            positive("objective.high", high)?;
        }
        match self.kl {
            Kl::Off => Ok(()),
            Kl::Loss { coefficient } | Kl::Reward { coefficient } => {
                positive("kl.coefficient", coefficient)
            }
        }
    }

    /// Joint actions of a node, for a team of so many roles; `None` beyond all numbers.
    pub fn joint_actions(&self, roles: usize) -> Option<usize> {
        match self.joint_mode {
            JointMode::Aligned => Some(self.samples),
            JointMode::Cross => self.samples.checked_pow(u32::try_from(roles).ok()?),
        }
    }

    /// Checks that a task's tree can be played by so many roles over so many turns.
    ///
    /// # Errors
    /// If it would have more than [`MOST_JOINT_ACTIONS`].
    pub fn validate_for(&self, roles: usize, turns: usize) -> Result<(), ConfigError> {
        let of_a_node = self.joint_actions(roles);
        // Those of the last turn; the turns before add less than as many again.
        let last = of_a_node.and_then(|n| n.checked_pow(u32::try_from(turns).ok()?));
        check(
            last.is_some_and(|last| last <= MOST_JOINT_ACTIONS),
            "samples",
            format!(
                "{} with `joint_mode: {:?}` for {roles} roles and {turns} turns",
                self.samples, self.joint_mode
            ),
            "small enough that the tree of a task has at most 65536 joint actions at its last turn",
        )
    }
}

impl Updates {
    /// Checks every number.
    ///
    /// # Errors
    /// Names the first setting that cannot work, what it is and what it may be.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let rate = |key, rate: f64| {
            let allowed = "above 0 and at most 1";
            check(rate > 0.0 && rate <= 1.0, key, rate, allowed)
        };
        rate("learning_rate", self.learning_rate)?;
        let mut own = self.learning_rates.values();
        own.try_for_each(|&own| rate("learning_rates", own))?;
        if let Schedule::Linear { last } | Schedule::Cosine { last } = self.schedule {
            check(
                (0.0..=1.0).contains(&last),
                "schedule.last",
                last,
                "from 0 to 1",
            )?;
        }
        for (key, beta) in [("beta_1", self.beta_1), ("beta_2", self.beta_2)] {
            // Weights are stepped in 32-bit floats.
            check(
                beta >= 0.0 && (beta as f32) < 1.0,
                key,
                beta,
                "from 0 to below 1, also as a 32-bit float",
            )?;
        }
        check(
            (f64::from(f32::MIN_POSITIVE)..f64::INFINITY).contains(&self.epsilon),
            "epsilon",
            self.epsilon,
            "a positive number that 32-bit floats can hold",
        )?;
        not_negative("weight_decay", self.weight_decay)?;
        positive("max_gradient_norm", self.max_gradient_norm)?;
        at_least_one("buffer", self.buffer)?;
        at_least_one("minibatch", self.minibatch)?;
        check(
            self.minibatch <= self.buffer,
            "minibatch",
            self.minibatch,
            "at most `buffer`, the nodes that there are to choose from",
        )?;
        at_least_one("epochs", self.epochs)?;
        at_least_one("max_nonfinite", self.max_nonfinite)?;
        positive("logprob_tolerance", self.logprob_tolerance)
    }

    /// Checks that samples are not used more often than the objective allows.
    ///
    /// # Errors
    /// If a policy gradient, which is right only for samples of the present policy, should go
    /// through them again.
    pub fn validate_with(&self, algorithm: &Algorithm) -> Result<(), ConfigError> {
        check(
            self.epochs == 1 || algorithm.objective != Objective::PolicyGradient,
            "epochs",
            self.epochs,
            "1 with `objective: PolicyGradient`, which learns from a sample once (`Clipped` may \
             do so again)",
        )
    }

    /// The learning rate of an agent at a step of a run, counted from 0: it rises over the warm-up
    /// and then follows the schedule.
    pub fn rate(&self, agent: &str, step: usize, steps: usize) -> f64 {
        let full = self.learning_rates.get(agent).copied();
        let full = full.unwrap_or(self.learning_rate);
        if step < self.warmup_steps {
            return full * (step + 1) as f64 / (self.warmup_steps + 1) as f64;
        }
        let left = steps.saturating_sub(self.warmup_steps).max(1) as f64;
        let done = ((step - self.warmup_steps) as f64 / left).min(1.0);
        full * match self.schedule {
            Schedule::Constant => 1.0,
            Schedule::Linear { last } => last + (1.0 - last) * (1.0 - done),
            Schedule::Cosine { last } => last + (1.0 - last) * (1.0 + (PI * done).cos()) / 2.0,
        }
    }
}

#[cfg(test)]
mod tests;
