//! Tiny models out of the fixtures of `polyphony-model`.

use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor};
use polyphony_model::{LanguageModel, ModelFiles};

/// A file or folder among the fixtures of `polyphony-model`.
pub(crate) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../crates/polyphony-model/fixtures")
        .join(name)
}

/// The model at a path, on the CPU.
pub(crate) fn load(path: &Path) -> LanguageModel {
    load_on(&Device::flex(), path)
}

/// The model at a path, on a device.
pub(crate) fn load_on(device: &Device, path: &Path) -> LanguageModel {
    LanguageModel::load(&ModelFiles::open(path).unwrap(), device).unwrap()
}

/// A tensor's values.
pub(crate) fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_into_vec().unwrap()
}

/// The bits of all weights, one after the other.
pub(crate) fn weight_bits(model: &LanguageModel) -> Vec<u32> {
    let weights = model.named_weights().into_iter();
    weights
        .flat_map(|(_, weight)| values(weight))
        .map(f32::to_bits)
        .collect()
}
