//! Which projections get a low-rank adapter, and how it is initialized.

use burn::tensor::{Device, Tensor, TensorData};
use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::{ModelError, network::LoraAdapter};

/// A projection inside a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Projection {
    /// From hidden states to queries.
    Query,
    /// From hidden states to keys.
    Key,
    /// From hidden states to values.
    Value,
    /// From the output of attention back to hidden states.
    Output,
    /// The gate of the feed-forward layer.
    Gate,
    /// The feed-forward layer's up projection.
    Up,
    /// The feed-forward layer's down projection.
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
        let path = self.path();
        path.rsplit_once('.').map_or(path, |(_, name)| name)
    }

    /// The path of its module in Hugging Face checkpoints, after the name of the layer. Each expert has gate,
    /// up and down projections of its own, with other paths.
    pub(crate) fn path(self) -> &'static str {
        match self {
            Self::Query => "self_attn.q_proj",
            Self::Key => "self_attn.k_proj",
            Self::Value => "self_attn.v_proj",
            Self::Output => "self_attn.o_proj",
            Self::Gate => "mlp.gate_proj",
            Self::Up => "mlp.up_proj",
            Self::Down => "mlp.down_proj",
        }
    }
}

/// Low-rank adapters (Hu et al., 2021, arXiv 2106.09685): the model's weights are frozen, and each
/// target projection learns a low-rank update that is added to its weight.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoraConfig {
    /// The rank of the updates, `R`.
    pub rank: usize,
    /// Updates are multiplied by `alpha / rank`.
    pub alpha: f64,
    /// The projections that get an adapter.
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
    /// If a value is out of range; the error names the setting and the allowed values.
    pub fn validate(&self) -> Result<(), ModelError> {
        let invalid = |key, given: String, allowed| {
            Err(ModelError::Setting {
                key,
                given,
                allowed,
            })
        };
        if self.rank == 0 {
            return invalid("rank", self.rank.to_string(), "at least 1");
        }
        if !(self.alpha > 0.0 && self.alpha.is_finite()) {
            return invalid("alpha", self.alpha.to_string(), "a positive number");
        }
        let repeated = (1..self.targets.len())
            .find(|&index| self.targets[..index].contains(&self.targets[index]));
        match (repeated, self.targets.as_slice()) {
            (None, [_, ..]) => Ok(()),
            (None, []) => invalid("targets", "empty".to_owned(), "a list of projections"),
            (Some(index), targets) => invalid(
                "targets",
                format!("a list with {:?} twice", targets[index]),
                "a list of different projections",
            ),
        }
    }

    /// The factor that an adapter's update is multiplied by.
    pub(crate) fn scale(&self) -> f64 {
        self.alpha / self.rank as f64
    }

    /// A new adapter for a projection from `inputs` to `outputs`. As in PEFT, `A` is uniform within
    /// ±1/√inputs and `B` is zero, so that the model is unchanged at first.
    pub(crate) fn initial_adapter(
        &self,
        [outputs, inputs]: [usize; 2],
        random: &mut ChaCha8Rng,
        device: &Device,
    ) -> LoraAdapter {
        let bound = (inputs as f32).sqrt().recip();
        let a: Vec<f32> = (0..self.rank * inputs)
            .map(|_| random.random_range(-bound..bound))
            .collect();
        let a = Tensor::from_data(TensorData::new(a, [self.rank, inputs]), device);
        let b = Tensor::zeros([outputs, self.rank], device);
        LoraAdapter::new(a, b, self.scale())
    }
}

#[cfg(test)]
mod tests;
