//! How tokens see one another. The network is the same in training and in generation; what differs
//! is the attention it is given.

use burn::tensor::Tensor;

use crate::kernels::{Packing, packed_attention};

/// Scaled dot-product attention over some arrangement of tokens.
pub(crate) trait Attention {
    /// What each token gathers from those it may see.
    ///
    /// # Shapes
    /// `T` tokens of this pass, `H` query heads, `K` key and value heads, `S` head size:
    /// - queries `[T, H, S]`, keys and values `[T, K, S]`, output `[T, H, S]`
    fn attend(
        &mut self,
        layer: usize,
        queries: Tensor<3>,
        keys: Tensor<3>,
        values: Tensor<3>,
    ) -> Tensor<3>;
}

/// A prompt followed by responses, packed as one row: each response sees the prompt and itself.
#[derive(Debug)]
pub(crate) struct PackedAttention {
    packing: Packing,
}

impl PackedAttention {
    pub(crate) fn new(prompt: usize, responses: &[usize]) -> Self {
        Self {
            packing: Packing::new(prompt, responses),
        }
    }
}

impl Attention for PackedAttention {
    fn attend(
        &mut self,
        _layer: usize,
        queries: Tensor<3>,
        keys: Tensor<3>,
        values: Tensor<3>,
    ) -> Tensor<3> {
        packed_attention(queries, keys, values, &self.packing)
    }
}
