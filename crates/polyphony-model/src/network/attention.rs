//! How tokens see one another. The network is the same in training and in generation; what differs
//! is the attention it is given.

use burn::tensor::{Bool, Device, Tensor, TensorData, activation::softmax};

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
    /// True where a query (first axis) must not see a key (second axis), `[1, 1, T, T]`.
    hidden: Tensor<4, Bool>,
}

impl PackedAttention {
    pub(crate) fn new(prompt: usize, responses: &[usize], device: &Device) -> Self {
        let tokens = prompt + responses.iter().sum::<usize>();
        let mut hidden = vec![true; tokens * tokens];
        let mut see = |query: usize, keys: std::ops::RangeInclusive<usize>| {
            keys.for_each(|key| hidden[query * tokens + key] = false);
        };
        (0..prompt).for_each(|query| see(query, 0..=query));
        let mut start = prompt;
        for length in responses {
            for query in start..start + length {
                if prompt > 0 {
                    see(query, 0..=prompt - 1);
                }
                see(query, start..=query);
            }
            start += length;
        }
        let data = TensorData::new(hidden, [1, 1, tokens, tokens]);
        Self {
            hidden: Tensor::from_data(data, device),
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
        let [tokens, heads, size] = queries.dims();
        let groups = keys.dims()[1];
        let per_group = heads / groups;
        let queries = (queries / (size as f64).sqrt())
            .reshape([tokens, groups, per_group, size])
            .permute([1, 2, 0, 3]);
        let keys = keys.permute([1, 2, 0]).unsqueeze_dim::<4>(1);
        let values = values.swap_dims(0, 1).unsqueeze_dim::<4>(1);
        let scores = queries
            .matmul(keys)
            .mask_fill(self.hidden.clone(), f32::NEG_INFINITY);
        let seen = softmax(scores, 3).matmul(values);
        seen.permute([2, 0, 1, 3]).reshape([tokens, heads, size])
    }
}
