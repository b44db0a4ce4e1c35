//! Loaded models, their tensors and weights.

use std::path::Path;

use burn::tensor::{Device, Tensor};
use polyphony_model::{LanguageModel, ModelFiles};

/// The model at a path, on the CPU.
pub fn load(path: &Path) -> LanguageModel {
    load_on(&Device::flex(), path)
}

/// The model at a path, on a device.
pub fn load_on(device: &Device, path: &Path) -> LanguageModel {
    LanguageModel::load(&ModelFiles::open(path).unwrap(), device).unwrap()
}

/// A tensor's values, in row-major order.
pub fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_into_vec().unwrap()
}

/// The bits of all weights, one after the other. Comparing bits also works for NaN, which as a float is
/// not equal to itself.
pub fn weight_bits(model: &LanguageModel) -> Vec<u32> {
    let weights = model.named_weights().into_iter();
    weights
        .flat_map(|(_, weight)| values(weight))
        .map(f32::to_bits)
        .collect()
}
