//! Attention over packed tokens that form a tree: each segment attends to its ancestors and to itself.
//! A prompt with its responses is such a tree, and so are the prompts of a rollout's branches.
//!
//! Only the unmasked parts of the attention matrix are computed, segment by segment. They are not
//! stored: the backward pass recomputes the weights (the idea of FlashAttention, Dao et al., 2022,
//! arXiv 2205.14135, with whole segments as blocks). With upstream `g`, weights `W`, output `o` and
//! scale `s`: `∂V = Wᵀ g`, `∂S = W ⊙ (g Vᵀ − g·o)`, `∂Q = s ∂S K`, `∂K = s ∂Sᵀ Q`, where `g·o` is taken
//! row by row, as a scalar product.

use std::ops::Range;

use burn::tensor::{DType, Tensor, TensorData, activation::softmax};
use rayon::prelude::*;

use super::{
    bf16::Bf16Unit,
    bf16_attention::Bf16Attention,
    exp::normalize,
    host::{Buffer, HostOp, Number, SavedTensors, Values, apply, operand},
    matrix::{Cores, Matrix, MatrixMut, Store, multiply},
    packing::{PackedSegment, Packing, hidden_keys},
    vectorized,
};

/// Scaled dot-product attention over a packed row. With a window, each token attends only to this many last
/// tokens of its sequence, itself included.
///
/// # Shapes
/// `T` tokens, `H` query heads, `K` key and value heads, `S` head size:
/// - queries and output `[T, H, S]`, keys and values `[T, K, S]`
pub(crate) fn packed_attention(
    queries: Tensor<3>,
    keys: Tensor<3>,
    values: Tensor<3>,
    packing: &Packing,
    window: Option<usize>,
) -> Tensor<3> {
    let shape @ [_, heads, size] = queries.dims();
    let kv_heads = keys.dims()[1];
    #[cfg(feature = "cube")]
    if let Some(output) = super::cube::packed_attention(&queries, &keys, &values, packing, window) {
        return output;
    }
    match (operand(&queries), operand(&keys), operand(&values)) {
        (Some(q), Some(k), Some(v)) => {
            if let (DType::BF16, Some(unit)) = (queries.dtype(), Bf16Unit::detect()) {
                let sizes = [heads, kv_heads, size];
                let op = Bf16Attention::new(unit, packing.clone(), window, sizes);
                return apply(op, [q, k, v], shape);
            }
            let op = PackedAttention {
                packing: packing.clone(),
                window,
                heads,
                kv_heads,
                size,
            };
            apply(op, [q, k, v], shape)
        }
        _ => packed_attention_in_burn(queries, keys, values, packing, window),
    }
}

pub(super) fn packed_attention_in_burn(
    queries: Tensor<3>,
    keys: Tensor<3>,
    values: Tensor<3>,
    packing: &Packing,
    window: Option<usize>,
) -> Tensor<3> {
    let [tokens, heads, size] = queries.dims();
    let kv_heads = keys.dims()[1];
    let mask = TensorData::new(packing.mask(window), [1, 1, tokens, tokens]);
    let mask = Tensor::from_data(mask, &queries.device());
    let queries = (queries / (size as f64).sqrt())
        .reshape([tokens, kv_heads, heads / kv_heads, size])
        .permute([1, 2, 0, 3]);
    let keys = keys.permute([1, 2, 0]).unsqueeze_dim::<4>(1);
    let values = values.swap_dims(0, 1).unsqueeze_dim::<4>(1);
    let scores = queries.matmul(keys).mask_fill(mask, f32::NEG_INFINITY);
    let attended = softmax(scores, 3).matmul(values);
    attended
        .permute([2, 0, 1, 3])
        .reshape([tokens, heads, size])
}

#[derive(Clone, Debug)]
struct PackedAttention {
    packing: Packing,
    window: Option<usize>,
    heads: usize,
    kv_heads: usize,
    size: usize,
}

/// One query head with its key and value head, as slices that start at the head's first value.
#[derive(Clone, Copy)]
struct Head<'a> {
    queries: &'a [f32],
    keys: &'a [f32],
    values: &'a [f32],
}

impl PackedAttention {
    fn head<'a>(&self, index: usize, [queries, keys, values]: [&'a [f32]; 3]) -> Head<'a> {
        let kv = index / (self.heads / self.kv_heads) * self.size;
        Head {
            queries: &queries[index * self.size..],
            keys: &keys[kv..],
            values: &values[kv..],
        }
    }

    /// The rows in `range` of a tensor with `heads` heads, from one head's slice.
    fn rows<'a>(&self, slice: &'a [f32], range: &Range<usize>, heads: usize) -> Matrix<'a> {
        let stride = heads * self.size;
        let slice = slice.get(range.start * stride..).unwrap_or_default();
        Matrix::new(slice, range.len(), self.size, stride)
    }

    /// Writes the attention weights of a segment, `[queries, keys]`, to `weights`; returns the number
    /// of keys.
    fn weights(&self, head: Head<'_>, segment: &PackedSegment, weights: &mut Vec<f32>) -> usize {
        let ancestor_tokens = segment.ancestor_tokens();
        let n = segment.tokens.len();
        let keys = ancestor_tokens + n;
        weights.clear();
        weights.resize(n * keys, 0.0);
        let queries = self.rows(head.queries, &segment.tokens, self.heads);
        let scale = (self.size as f32).sqrt().recip();
        for (range, column) in segment.key_ranges() {
            let target = MatrixMut::new(&mut weights[column..], n, range.len(), keys);
            let key_rows = self.rows(head.keys, range, self.kv_heads);
            multiply(
                target,
                Store::Replace,
                scale,
                queries,
                key_rows.t(),
                Cores::One,
            );
        }
        vectorized(
            #[inline(always)]
            || {
                for (query, row) in weights.chunks_exact_mut(keys).enumerate() {
                    let (visible, masked) = row.split_at_mut(ancestor_tokens + query + 1);
                    let (before, in_window) =
                        visible.split_at_mut(hidden_keys(visible.len(), self.window));
                    before.fill(0.0);
                    normalize(in_window);
                    masked.fill(0.0);
                }
            },
        );
        keys
    }

    /// Gathers `[H, T, S]` into `[T, H, S]`.
    fn interleave(&self, by_head: &[Vec<f32>]) -> Vec<f32> {
        let heads = by_head.len();
        let tokens = by_head.first().map_or(0, |head| head.len() / self.size);
        let mut output = vec![0.0; tokens * heads * self.size];
        for (token, row) in output.chunks_exact_mut(heads * self.size).enumerate() {
            for (head, slot) in by_head.iter().zip(row.chunks_exact_mut(self.size)) {
                slot.copy_from_slice(&head[token * self.size..(token + 1) * self.size]);
            }
        }
        output
    }

    /// The gradient of one head's queries, and the head's contributions to the gradients of keys and
    /// values, each `[T, S]`.
    fn head_gradients(&self, head: Head<'_>, output: &[f32], upstream: &[f32]) -> [Vec<f32>; 3] {
        let tokens = self.packing.tokens();
        let size = self.size;
        let scale = (size as f32).sqrt().recip();
        let [mut dq, mut dk, mut dv] = [(); 3].map(|()| vec![0.0; tokens * size]);
        let (mut weights, mut scores) = (Vec::new(), Vec::new());
        for segment in self.packing.nonempty() {
            let keys = self.weights(head, segment, &mut weights);
            let queries = self.rows(head.queries, &segment.tokens, self.heads);
            let upstream_rows = self.rows(upstream, &segment.tokens, self.heads);
            let n = segment.tokens.len();
            scores.clear();
            scores.resize(n * keys, 0.0);
            for (range, column) in segment.key_ranges() {
                let weights = Matrix::new(&weights[column..], n, range.len(), keys);
                let target = MatrixMut::new(&mut dv[range.start * size..], range.len(), size, size);
                multiply(
                    target,
                    Store::Add,
                    1.0,
                    weights.t(),
                    upstream_rows,
                    Cores::One,
                );
                let target = MatrixMut::new(&mut scores[column..], n, range.len(), keys);
                let value_rows = self.rows(head.values, range, self.kv_heads);
                multiply(
                    target,
                    Store::Replace,
                    1.0,
                    upstream_rows,
                    value_rows.t(),
                    Cores::One,
                );
            }
            let stride = self.heads * size;
            vectorized(
                #[inline(always)]
                || {
                    let rows = scores
                        .chunks_exact_mut(keys)
                        .zip(weights.chunks_exact(keys));
                    for (query, (scores, weights)) in segment.tokens.clone().zip(rows) {
                        let row = query * stride..query * stride + size;
                        let upstream_dot_output: f32 = upstream[row.clone()]
                            .iter()
                            .zip(&output[row])
                            .map(|(g, o)| g * o)
                            .sum();
                        for (score, weight) in scores.iter_mut().zip(weights) {
                            *score = weight * (*score - upstream_dot_output);
                        }
                    }
                },
            );
            for (range, column) in segment.key_ranges() {
                let scores = Matrix::new(&scores[column..], n, range.len(), keys);
                let target = MatrixMut::new(&mut dq[segment.tokens.start * size..], n, size, size);
                let key_rows = self.rows(head.keys, range, self.kv_heads);
                multiply(target, Store::Add, scale, scores, key_rows, Cores::One);
                let target = MatrixMut::new(&mut dk[range.start * size..], range.len(), size, size);
                multiply(target, Store::Add, scale, scores.t(), queries, Cores::One);
            }
        }
        [dq, dk, dv]
    }
}

impl HostOp<3> for PackedAttention {
    const SAVES: SavedTensors = SavedTensors::InputsAndOutput;

    fn forward(&self, inputs: [Values<'_>; 3]) -> Buffer {
        let inputs = inputs.map(f32::slice);
        let tokens = self.packing.tokens();
        let heads = (0..self.heads).into_par_iter().map(|index| {
            let head = self.head(index, inputs);
            let (mut output, mut weights) = (vec![0.0; tokens * self.size], Vec::new());
            for segment in self.packing.nonempty() {
                let keys = self.weights(head, segment, &mut weights);
                let n = segment.tokens.len();
                for (range, column) in segment.key_ranges() {
                    let target = &mut output[segment.tokens.start * self.size..];
                    let target = MatrixMut::new(target, n, self.size, self.size);
                    let weights = Matrix::new(&weights[column..], n, range.len(), keys);
                    let value_rows = self.rows(head.values, range, self.kv_heads);
                    multiply(target, Store::Add, 1.0, weights, value_rows, Cores::One);
                }
            }
            output
        });
        Buffer::F32(self.interleave(&heads.collect::<Vec<_>>()))
    }

    fn backward(
        &self,
        inputs: [Values<'_>; 3],
        output: Values<'_>,
        upstream: Values<'_>,
        _needs_gradient: [bool; 3],
    ) -> [Buffer; 3] {
        let inputs = inputs.map(f32::slice);
        let (output, upstream) = (f32::slice(output), f32::slice(upstream));
        let by_head: Vec<[Vec<f32>; 3]> = (0..self.heads)
            .into_par_iter()
            .map(|index| {
                let start = index * self.size;
                let head = self.head(index, inputs);
                self.head_gradients(head, &output[start..], &upstream[start..])
            })
            .collect();
        let mut queries = Vec::with_capacity(self.heads);
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        for (index, [dq, dk, dv]) in by_head.into_iter().enumerate() {
            queries.push(dq);
            // Several query heads share one key head, so their contributions add up.
            if index % (self.heads / self.kv_heads) == 0 {
                keys.push(dk);
                values.push(dv);
            } else if let (Some(keys), Some(values)) = (keys.last_mut(), values.last_mut()) {
                add(keys, &dk);
                add(values, &dv);
            }
        }
        [
            self.interleave(&queries),
            self.interleave(&keys),
            self.interleave(&values),
        ]
        .map(Buffer::F32)
    }
}

fn add(sum: &mut [f32], addend: &[f32]) {
    sum.iter_mut()
        .zip(addend)
        .for_each(|(sum, value)| *sum += value);
}
