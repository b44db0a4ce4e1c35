//! How a run samples and updates, apart from the algorithm's own settings. Every mode is an enum; every
//! number is checked before a run starts.

use std::{borrow::Cow, collections::BTreeMap, f64::consts::PI};

use polyphony_model::{Activations, Sampling};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// How a run samples and updates, apart from the algorithm's own settings.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainingConfig {
    /// The seed of all random numbers.
    pub seed: u64,
    /// Steps of the whole run, over which the learning rate follows its schedule.
    pub steps: usize,
    /// How tokens are drawn.
    pub sampling: Sampling,
    /// The maximum number of tokens of a response.
    pub max_new_tokens: usize,
    /// What happens to prompts that do not fit.
    pub long_prompts: LongPrompts,
    /// How weights are updated.
    pub updates: Updates,
}

impl Default for TrainingConfig {
    fn default() -> Self {
        Self {
            seed: 0,
            steps: 1,
            sampling: Sampling::default(),
            max_new_tokens: 128,
            long_prompts: LongPrompts::default(),
            updates: Updates::default(),
        }
    }
}

impl TrainingConfig {
    /// Checks every number.
    ///
    /// # Errors
    /// Names the first setting that cannot work, its value and the values that are allowed.
    pub fn validate(&self) -> Result<(), ConfigError> {
        at_least_one("max_new_tokens", self.max_new_tokens)?;
        self.updates.validate()
    }

    /// The temperature of the distribution that log-probabilities refer to.
    pub fn temperature(&self) -> f32 {
        self.sampling.scoring_temperature()
    }

    /// The learning rate of an agent at a step, counted from 0.
    pub fn learning_rate(&self, agent: &str, step: usize) -> f64 {
        self.updates.rate(agent, step, self.steps)
    }
}

/// What happens if the first prompt of a task, or a later prompt of an episode, does not fit into an agent's
/// context.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum LongPrompts {
    /// The run stops with an error that names the task.
    #[default]
    Fail,
    /// The task is left out or the episode ends there, which is logged and counted.
    Skip,
}

/// The number format of the optimizer's moments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum MomentFormat {
    /// 32-bit floats.
    #[default]
    F32,
    /// 8-bit codes in blocks of 2048 values, which need a quarter of the memory (Dettmers et al., 2022). Weights
    /// with fewer than 4096 values, and weights on other devices than the CPU, keep 32-bit floats.
    Int8,
}

/// How the learning rate changes after the warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub enum LrSchedule {
    /// It stays constant.
    #[default]
    Constant,
    /// It falls linearly to a fraction of the full rate at the end of the run.
    Linear {
        /// The rate at the end, as a fraction of the full rate.
        last: f64,
    },
    /// It falls along half a cosine to a fraction of the full rate at the end of the run.
    Cosine {
        /// The rate at the end, as a fraction of the full rate.
        last: f64,
    },
}

/// How weights are updated.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Updates {
    /// The learning rate after warm-up.
    pub learning_rate: f64,
    /// By agent name, the learning rates that differ from `learning_rate`.
    pub learning_rates: BTreeMap<String, f64>,
    /// Training steps over which the learning rate rises linearly to its full value.
    pub warmup_steps: usize,
    /// How the learning rate changes after the warm-up.
    pub schedule: LrSchedule,
    /// AdamW's decay rate of the first moment.
    pub beta_1: f64,
    /// AdamW's decay rate of the second moment.
    pub beta_2: f64,
    /// AdamW's `ε`, which is added to the root of the second moment.
    pub epsilon: f64,
    /// AdamW's decoupled weight decay. Norms and biases do not decay.
    pub weight_decay: f64,
    /// The number format of AdamW's moments.
    pub moments: MomentFormat,
    /// The largest norm of the gradient over all weights; larger gradients are clipped to it.
    pub max_grad_norm: f64,
    /// Nodes that an agent collects before it updates, over several steps if necessary.
    pub buffer: usize,
    /// Nodes of one gradient step; more if the nodes of an update cannot be divided evenly.
    pub minibatch: usize,
    /// How many times an update goes through the buffer. If it is more than once, each pass has a
    /// different order.
    pub epochs: usize,
    /// The run stops after this many gradient steps in a row were skipped because the loss or the gradient
    /// was not finite.
    pub max_skipped_updates: usize,
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
            schedule: LrSchedule::default(),
            beta_1: 0.9,
            beta_2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.0,
            moments: MomentFormat::default(),
            max_grad_norm: 1.0,
            buffer: 1,
            minibatch: 1,
            epochs: 1,
            max_skipped_updates: 3,
            // GPUs multiply 32-bit floats at reduced precision: an H100 was off by up to 0.024.
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
    pub key: Cow<'static, str>,
    /// What was given.
    pub given: String,
    /// What is allowed.
    pub allowed: Cow<'static, str>,
}

impl ConfigError {
    /// An error that names a setting, its value and what is allowed.
    pub fn new(
        key: impl Into<Cow<'static, str>>,
        given: impl ToString,
        allowed: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self {
            key: key.into(),
            given: given.to_string(),
            allowed: allowed.into(),
        }
    }
}

/// Refuses a setting unless it is valid.
pub(crate) fn check(
    is_valid: bool,
    key: &'static str,
    given: impl ToString,
    allowed: &'static str,
) -> Result<(), ConfigError> {
    match is_valid {
        true => Ok(()),
        false => Err(ConfigError::new(key, given, allowed)),
    }
}

pub(crate) fn positive(key: &'static str, value: f64) -> Result<(), ConfigError> {
    check(
        value > 0.0 && value.is_finite(),
        key,
        value,
        "a positive number",
    )
}

pub(crate) fn not_negative(key: &'static str, value: f64) -> Result<(), ConfigError> {
    check(value >= 0.0 && value.is_finite(), key, value, "0 or more")
}

pub(crate) fn at_least_one(key: &'static str, value: usize) -> Result<(), ConfigError> {
    check(value >= 1, key, value, "at least 1")
}

pub(crate) fn fraction(key: &'static str, value: f64) -> Result<(), ConfigError> {
    check((0.0..=1.0).contains(&value), key, value, "from 0 to 1")
}

pub(crate) fn learning_rate(key: &'static str, rate: f64) -> Result<(), ConfigError> {
    let allowed = "above 0 and at most 1";
    check(rate > 0.0 && rate <= 1.0, key, rate, allowed)
}

impl Updates {
    /// Checks every number.
    ///
    /// # Errors
    /// Names the first setting that cannot work, its value and the values that are allowed.
    pub fn validate(&self) -> Result<(), ConfigError> {
        learning_rate("learning_rate", self.learning_rate)?;
        let mut rates = self.learning_rates.values();
        rates.try_for_each(|&rate| learning_rate("learning_rates", rate))?;
        if let LrSchedule::Linear { last } | LrSchedule::Cosine { last } = self.schedule {
            fraction("schedule.last", last)?;
        }
        for (key, beta) in [("beta_1", self.beta_1), ("beta_2", self.beta_2)] {
            // Steps are computed in 32-bit floats.
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
        positive("max_grad_norm", self.max_grad_norm)?;
        at_least_one("buffer", self.buffer)?;
        at_least_one("minibatch", self.minibatch)?;
        check(
            self.minibatch <= self.buffer,
            "minibatch",
            self.minibatch,
            "at most `buffer`, the number of nodes that an agent collects",
        )?;
        at_least_one("epochs", self.epochs)?;
        at_least_one("max_skipped_updates", self.max_skipped_updates)?;
        positive("logprob_tolerance", self.logprob_tolerance)
    }

    /// The learning rate of an agent at a step of a run of `steps`, counted from 0. It rises over the warm-up
    /// and then follows the schedule.
    pub fn rate(&self, agent: &str, step: usize, steps: usize) -> f64 {
        let agent_rate = self.learning_rates.get(agent).copied();
        self.scheduled(agent_rate.unwrap_or(self.learning_rate), step, steps)
    }

    /// The learning rate at a step: `full`, which is the rate after the warm-up, scaled by warm-up and
    /// schedule.
    pub fn scheduled(&self, full: f64, step: usize, steps: usize) -> f64 {
        if step < self.warmup_steps {
            return full * (step + 1) as f64 / (self.warmup_steps + 1) as f64;
        }
        let remaining_steps = steps.saturating_sub(self.warmup_steps).max(1) as f64;
        let progress = ((step - self.warmup_steps) as f64 / remaining_steps).min(1.0);
        full * match self.schedule {
            LrSchedule::Constant => 1.0,
            LrSchedule::Linear { last } => last + (1.0 - last) * (1.0 - progress),
            LrSchedule::Cosine { last } => {
                last + (1.0 - last) * (1.0 + (PI * progress).cos()) / 2.0
            }
        }
    }
}

#[cfg(test)]
mod tests;
