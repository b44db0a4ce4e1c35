//! Which tokens attend to which. The network is the same in training and in generation; only the
//! [`Attention`] passed to it differs.

use burn::tensor::Tensor;

use crate::kernels::{Packing, packed_attention};

/// Scaled dot-product attention over some arrangement of tokens.
pub(crate) trait Attention {
    /// The attention output of every token of this pass. With a window, a token attends only to this many last
    /// tokens of its sequence, itself included.
    ///
    /// # Shapes
    /// `T` tokens of this pass, `H` query heads, `K` key and value heads, `S` head size:
    /// - queries `[T, H, S]`, keys and values `[T, K, S]`, output `[T, H, S]`
    fn attend(
        &mut self,
        layer: usize,
        window: Option<usize>,
        queries: Tensor<3>,
        keys: Tensor<3>,
        values: Tensor<3>,
    ) -> Tensor<3>;
}

/// Splits projected rows into heads.
///
/// # Shapes
/// - projected `[T, heads · S]`, output `[T, heads, S]`
pub(crate) fn split_heads(projected: Tensor<2>, head_size: usize) -> Tensor<3> {
    let [tokens, width] = projected.dims();
    projected.reshape([tokens, width / head_size, head_size])
}

/// Joins the heads of each row.
///
/// # Shapes
/// - heads `[T, heads, S]`, output `[T, heads · S]`
pub(crate) fn merge_heads(heads: Tensor<3>) -> Tensor<2> {
    let [tokens, count, size] = heads.dims();
    heads.reshape([tokens, count * size])
}

/// A prompt followed by responses, packed as one row: each response attends to the prompt and itself.
#[derive(Debug)]
pub(crate) struct PackedAttention {
    packing: Packing,
}

impl PackedAttention {
    pub(crate) fn new(prompt: usize, responses: &[usize]) -> Self {
        Self {
            packing: Packing::of_group(prompt, responses),
        }
    }
}

impl Attention for PackedAttention {
    fn attend(
        &mut self,
        _layer: usize,
        window: Option<usize>,
        queries: Tensor<3>,
        keys: Tensor<3>,
        values: Tensor<3>,
    ) -> Tensor<3> {
        packed_attention(queries, keys, values, &self.packing, window)
    }
}
