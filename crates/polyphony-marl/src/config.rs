//! The choices that make up an algorithm. Every mode is an enum; every number is checked before a
//! run starts.

use polyphony_model::Activations;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// How agents' responses are combined into joint actions (DESIGN 3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum JointMode {
    /// Joint action `g` is every agent's `g`-th response.
    #[default]
    Aligned,
}

/// What is subtracted from an agent's credits within a group (DESIGN 3.3).
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

/// The learning algorithm: what is sampled and what is maximized.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Algorithm {
    /// Responses that each agent samples at a node, `G`.
    pub samples: usize,
    /// How they are combined.
    pub joint_mode: JointMode,
    /// The discount `γ` of later turns' returns.
    pub discount: f64,
    /// What is subtracted from credits.
    pub baseline: Baseline,
    /// What advantages are divided by.
    pub advantage_scale: AdvantageScale,
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
            discount: 1.0,
            baseline: Baseline::default(),
            advantage_scale: AdvantageScale::default(),
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
    /// Updates over which the learning rate rises linearly to its full value.
    pub warmup_updates: usize,
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
    /// Nodes that an agent collects before it updates.
    pub buffer: usize,
    /// Nodes of one gradient step.
    pub minibatch: usize,
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
            warmup_updates: 0,
            beta_1: 0.9,
            beta_2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.0,
            max_gradient_norm: 1.0,
            buffer: 1,
            minibatch: 1,
            max_nonfinite: 3,
            logprob_tolerance: 0.02,
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
        Ok(())
    }
}

impl Updates {
    /// Checks every number.
    ///
    /// # Errors
    /// Names the first setting that cannot work, what it is and what it may be.
    pub fn validate(&self) -> Result<(), ConfigError> {
        check(
            self.learning_rate > 0.0 && self.learning_rate <= 1.0,
            "learning_rate",
            self.learning_rate,
            "above 0 and at most 1",
        )?;
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
        at_least_one("max_nonfinite", self.max_nonfinite)?;
        positive("logprob_tolerance", self.logprob_tolerance)
    }
}

#[cfg(test)]
mod tests;
