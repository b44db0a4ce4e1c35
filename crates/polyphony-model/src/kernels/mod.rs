//! The operations on which training and generation spend their time.

mod decode_attention;
mod few_rows;
mod host;
mod token_logprobs;

pub(crate) use decode_attention::{Stretch, decode_attention};
pub(crate) use host::{HostTensor, contiguous, host, values};
pub(crate) use token_logprobs::token_logprobs;

use burn::tensor::{Tensor, TensorData};

use few_rows::{MOST_ROWS, project_few_rows};

/// The product of every input row with a weight stored as `[O, I]`.
///
/// # Shapes
/// - input `[T, I]`, weight `[O, I]`, output `[T, O]`
pub(crate) fn project(input: Tensor<2>, weight: Tensor<2>) -> Tensor<2> {
    let ([rows, inner], [outputs, _]) = (input.dims(), weight.dims());
    if rows <= MOST_ROWS
        && let (Some(x), Some(w)) = (host(&input), host(&weight))
    {
        let product = project_few_rows(values(&x), values(&w), inner);
        return Tensor::from_data(TensorData::new(product, [rows, outputs]), &input.device());
    }
    input.matmul(weight.transpose())
}

/// Every row divided by its root mean square, times a weight.
///
/// # Shapes
/// - input and output `[T, D]`, weight `[D]`
pub(crate) fn rms_norm(input: Tensor<2>, weight: Tensor<1>, epsilon: f64) -> Tensor<2> {
    let mean_square = input.clone().square().mean_dim(1);
    input * (mean_square + epsilon).sqrt().recip() * weight.unsqueeze()
}
