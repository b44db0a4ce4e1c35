//! Copies between host memory and a device: token ids to it, results back.

use burn::tensor::{Device, Int, Tensor, TensorData};

/// Token ids on a device.
pub(crate) fn token_tensor(ids: &[u32], device: &Device) -> Tensor<1, Int> {
    let ids: Vec<i64> = ids.iter().map(|&id| i64::from(id)).collect();
    let length = ids.len();
    Tensor::from_data(TensorData::new(ids, [length]), device)
}

/// The values of a tensor, in host memory.
pub(crate) fn to_host<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    let data = tensor.inner().into_data().convert::<f32>();
    // This fails only for another element type, and the data has just been converted.
    data.try_into_vec().expect("converted to f32")
}
