//! CPU tensors as slices, for the kernels that burn does not have.

use burn::{
    backend::{Flex, tensor::FloatTensor},
    tensor::{DType, Tensor},
};

/// A float tensor in host memory.
pub(crate) type HostTensor = FloatTensor<Flex>;

/// A tensor's values in row-major order, if it lives on the CPU, holds 32-bit floats and is not
/// recorded for differentiation.
pub(crate) fn host<const D: usize>(tensor: &Tensor<D>) -> Option<HostTensor> {
    let tensor = tensor.clone().try_into_primitive::<Flex>().ok()?;
    (tensor.dtype() == DType::F32).then(|| tensor.to_contiguous())
}

/// The values of a tensor that [`host`] gave.
pub(crate) fn values(tensor: &HostTensor) -> &[f32] {
    tensor
        .as_slice::<f32>()
        .unwrap_or_else(|| unreachable!("`host` made it contiguous floats"))
}

/// The same tensor laid out in row-major order, so that [`host`] need not copy it again. Other
/// devices look after their own layouts.
pub(crate) fn contiguous<const D: usize>(tensor: Tensor<D>) -> Tensor<D> {
    match host(&tensor) {
        Some(host) => Tensor::from_primitive::<Flex>(host),
        None => tensor,
    }
}
