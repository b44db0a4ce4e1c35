//! Which projections get a low-rank adapter, and how it begins.

use burn::tensor::{Device, Tensor, TensorData};
use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::{ModelError, network::LowRank};

/// A projection inside a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Projection {
    /// From hidden states to queries.
    Query,
    /// From hidden states to keys.
    Key,
    /// From hidden states to values.
    Value,
    /// From what attention gathered back to hidden states.
    Output,
    /// The gate of the feed-forward layer.
    Gate,
    /// The feed-forward layer's way up.
    Up,
    /// The feed-forward layer's way down.
    Down,
}

impl Projection {
    /// All of them, in the order in which weights are visited.
    pub const ALL: [Self; 7] = [
        Self::Query,
        Self::Key,
        Self::Value,
        Self::Output,
        Self::Gate,
        Self::Up,
        Self::Down,
    ];

    /// Its name in Hugging Face checkpoints.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Query => "q_proj",
            Self::Key => "k_proj",
            Self::Value => "v_proj",
            Self::Output => "o_proj",
            Self::Gate => "gate_proj",
            Self::Up => "up_proj",
            Self::Down => "down_proj",
        }
    }

    /// The part of a layer that it belongs to, by its name in Hugging Face checkpoints.
    pub(crate) fn block(self) -> &'static str {
        match self {
            Self::Query | Self::Key | Self::Value | Self::Output => "self_attn",
            Self::Gate | Self::Up | Self::Down => "mlp",
        }
    }
}

/// Low-rank adapters (Hu et al., 2021, arXiv 2106.09685): the model's own weights stay as they are,
/// and each chosen projection learns an addition of low rank.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoraConfig {
    /// The additions' rank, `R`.
    pub rank: usize,
    /// Additions are multiplied by `alpha / rank`.
    pub alpha: f64,
    /// The projections that learn.
    pub targets: Vec<Projection>,
}

impl Default for LoraConfig {
    fn default() -> Self {
        Self {
            rank: 8,
            alpha: 16.0,
            targets: Projection::ALL.to_vec(),
        }
    }
}

impl LoraConfig {
    /// Checks every value.
    ///
    /// # Errors
    /// Names the value that cannot work, and what it may be.
    pub fn validate(&self) -> Result<(), ModelError> {
        let wrong = |key, given: String, allowed| {
            Err(ModelError::Setting {
                key,
                given,
                allowed,
            })
        };
        if self.rank == 0 {
            return wrong("rank", self.rank.to_string(), "at least 1");
        }
        if !(self.alpha > 0.0 && self.alpha.is_finite()) {
            return wrong("alpha", self.alpha.to_string(), "a positive number");
        }
        let repeated = (1..self.targets.len())
            .find(|&place| self.targets[..place].contains(&self.targets[place]));
        match (repeated, self.targets.as_slice()) {
            (None, [_, ..]) => Ok(()),
            (None, []) => wrong("targets", "empty".to_owned(), "a list of projections"),
            (Some(place), targets) => wrong(
                "targets",
                format!("a list with {:?} twice", targets[place]),
                "a list of different projections",
            ),
        }
    }

    /// What the product of the two factors is multiplied by.
    pub(crate) fn scale(&self) -> f64 {
        self.alpha / self.rank as f64
    }

    /// A new adapter for a projection of `inputs` to `outputs`. `A` is uniform within
    /// ±1/√inputs and `B` is zero, as in PEFT, so that the model is unchanged at first.
    pub(crate) fn begin(
        &self,
        [outputs, inputs]: [usize; 2],
        random: &mut ChaCha8Rng,
        device: &Device,
    ) -> LowRank {
        let bound = (inputs as f32).sqrt().recip();
        let a: Vec<f32> = (0..self.rank * inputs)
            .map(|_| random.random_range(-bound..bound))
            .collect();
        let a = Tensor::from_data(TensorData::new(a, [self.rank, inputs]), device);
        let b = Tensor::zeros([outputs, self.rank], device);
        LowRank::new(a, b, self.scale())
    }
}

#[cfg(test)]
mod tests;
