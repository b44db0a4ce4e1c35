//! Token ids on their way to a device, and results on their way back.

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
    // Only another element type could fail, and it has just been converted.
    data.try_into_vec().expect("converted to f32")
}
