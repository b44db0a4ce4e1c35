//! A network with its configuration on a device.

use std::{collections::HashMap, path::Path};

use burn::{
    module::{Module, ModuleMapper, ModuleVisitor},
    tensor::{Device, Int, Tensor, TensorData},
};

use crate::{
    Assets, ModelConfig, ModelError, ModelFiles, TensorSpec,
    network::{Attention, Network, WeightReader, named_weights, rope::Rotation},
    save,
    scoring::to_host,
};

/// A causal language model.
///
/// Weights sit on a device without gradients; [`LanguageModel::trainable`] gives a view of the
/// same weights that records them.
#[derive(Clone, Debug)]
pub struct LanguageModel {
    config: ModelConfig,
    network: Network,
}

impl LanguageModel {
    /// Reads a model's weights onto a device.
    ///
    /// # Errors
    /// Names missing, surplus and wrongly shaped tensors.
    pub fn load(files: &ModelFiles, device: &Device) -> Result<Self, ModelError> {
        let reader = WeightReader::new(&files.weights, device);
        let network = Network::load(&files.config, &reader)?;
        reader.finish()?;
        Ok(Self {
            config: files.config.clone(),
            network,
        })
    }

    /// The sizes and constants of the network.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The device that holds the weights.
    pub fn device(&self) -> Device {
        self.network.device()
    }

    /// The same weights, recorded for differentiation. Shares memory with the original until one
    /// of them changes.
    #[must_use]
    pub fn trainable(&self) -> Self {
        Self {
            config: self.config.clone(),
            network: self.network.clone().train(),
        }
    }

    /// Visits every weight, under the path that is its Hugging Face name.
    pub fn visit_weights(&self, visitor: &mut impl ModuleVisitor) {
        self.network.visit(visitor);
    }

    /// Replaces every weight by what `mapper` makes of it. Weights that nobody else shares are
    /// handed over alone, so that they can be changed in place.
    pub fn map_weights(&mut self, mapper: &mut impl ModuleMapper) {
        let hollow = Network::hollow(&self.device());
        let network = std::mem::replace(&mut self.network, hollow);
        self.network = network.map(mapper);
    }

    /// All weights, each flat, under their Hugging Face names.
    pub fn named_weights(&self) -> Vec<(TensorSpec, Tensor<1>)> {
        named_weights(&self.network)
    }

    /// Saves the model as the new Hugging Face directory `target`, which PyTorch transformers
    /// loads unchanged. `assets` are those of the files that the model was loaded from.
    ///
    /// # Errors
    /// If `target` exists or cannot be written; nothing is left behind then.
    pub fn save(&self, target: &Path, assets: &Assets) -> Result<(), ModelError> {
        let (specs, weights): (Vec<_>, Vec<_>) = self.named_weights().into_iter().unzip();
        let places: HashMap<&str, usize> = specs
            .iter()
            .enumerate()
            .map(|(place, spec)| (spec.name.as_str(), place))
            .collect();
        save(target, assets, &specs, |spec| {
            Ok(to_host(weights[places[spec.name.as_str()]].clone()))
        })
    }

    /// The hidden states after the last layer.
    ///
    /// # Shapes
    /// - ids and positions `T` long, output `[T, D]` with `D` the hidden size
    pub(crate) fn hidden(
        &self,
        ids: &[u32],
        positions: &[usize],
        attention: &mut impl Attention,
    ) -> Tensor<2> {
        let device = self.device();
        let rotation = Rotation::new(positions, self.config.head_size, &self.config.rope, &device);
        self.network
            .forward(token_tensor(ids, &device), &rotation, attention)
    }

    /// The output head's weight, `[V, D]`.
    pub(crate) fn head(&self) -> Tensor<2> {
        self.network.head()
    }

    /// Refuses token ids outside the vocabulary.
    pub(crate) fn check_ids(&self, ids: &[u32]) -> Result<(), ModelError> {
        let vocab_size = self.config.vocab_size;
        match ids.iter().find(|&&id| id as usize >= vocab_size) {
            Some(&id) => Err(ModelError::TokenOutOfRange { id, vocab_size }),
            None => Ok(()),
        }
    }
}

/// Token ids on a device.
pub(crate) fn token_tensor(ids: &[u32], device: &Device) -> Tensor<1, Int> {
    let ids: Vec<i64> = ids.iter().map(|&id| i64::from(id)).collect();
    let length = ids.len();
    Tensor::from_data(TensorData::new(ids, [length]), device)
}
