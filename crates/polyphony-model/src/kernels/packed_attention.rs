//! Attention over packed tokens that form a tree: each segment attends to its ancestors and to itself.
//! A prompt with its responses is such a tree, and so are the prompts of a rollout's branches.
//!
//! Only the unmasked parts of the attention matrix are computed, segment by segment. They are not
//! stored: the backward pass recomputes the weights (the idea of FlashAttention, Dao et al., 2022,
//! arXiv 2205.14135, with whole segments as blocks). With upstream `g`, weights `W`, output `o` and
//! scale `s`: `∂V = Wᵀ g`, `∂S = W ⊙ (g Vᵀ − g·o)`, `∂Q = s ∂S K`, `∂K = s ∂Sᵀ Q`, where `g·o` is taken
//! row by row, as a scalar product.

use std::{ops::Range, sync::Arc};

use burn::tensor::{Tensor, TensorData, activation::softmax};
use pulp::Arch;
use rayon::prelude::*;

use super::{
    exp::exp,
    host::{HostOp, SavedTensors, apply, operand},
    matrix::{Cores, Matrix, MatrixMut, Store, multiply},
};

/// A run of consecutive packed tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    /// The number of tokens.
    pub(crate) tokens: usize,
    /// The index of the segment that it continues, which comes before it.
    pub(crate) parent: Option<usize>,
}

/// Which packed tokens attend to which: a tree of segments, packed one after the other.
#[derive(Clone, Debug)]
pub(crate) struct Packing {
    segments: Arc<[PackedSegment]>,
}

/// A segment with its position in the packed row.
#[derive(Clone, Debug)]
struct PackedSegment {
    tokens: Range<usize>,
    /// The ranges of its ancestors, from the root on, and then its own range, in which attention is
    /// causal.
    path: Vec<Range<usize>>,
}

impl Packing {
    pub(crate) fn new(segments: &[Segment]) -> Self {
        let mut packed: Vec<PackedSegment> = Vec::with_capacity(segments.len());
        let mut start = 0;
        for segment in segments {
            let tokens = start..start + segment.tokens;
            start = tokens.end;
            let mut path = match segment.parent {
                Some(parent) => packed[parent].path.clone(),
                None => Vec::new(),
            };
            path.push(tokens.clone());
            packed.push(PackedSegment { tokens, path });
        }
        Self {
            segments: packed.into(),
        }
    }

    /// A prompt and responses to it.
    pub(crate) fn of_group(prompt: usize, responses: &[usize]) -> Self {
        let prompt = Segment {
            tokens: prompt,
            parent: None,
        };
        let responses = responses.iter().map(|&tokens| Segment {
            tokens,
            parent: Some(0),
        });
        let segments: Vec<Segment> = std::iter::once(prompt).chain(responses).collect();
        Self::new(&segments)
    }

    /// For each segment the ranges of tokens that its last token attends to, in order.
    pub(crate) fn paths(&self) -> impl Iterator<Item = &[Range<usize>]> {
        self.segments.iter().map(|segment| segment.path.as_slice())
    }

    fn tokens(&self) -> usize {
        self.segments.last().map_or(0, |last| last.tokens.end)
    }

    /// The segments that have tokens.
    fn nonempty(&self) -> impl Iterator<Item = &PackedSegment> {
        let segments = self.segments.iter();
        segments.filter(|segment| !segment.tokens.is_empty())
    }

    /// True where a query (first axis) must not attend to a key (second axis), row by row. With a window, a
    /// query attends only to the last keys of its path.
    fn mask(&self, window: Option<usize>) -> Vec<bool> {
        let tokens = self.tokens();
        let mut mask = vec![true; tokens * tokens];
        for segment in self.segments.iter() {
            for query in segment.tokens.clone() {
                let row = &mut mask[query * tokens..(query + 1) * tokens];
                let keys = segment.path.iter().cloned().flatten();
                let visible: Vec<usize> = keys.take_while(|key| *key <= query).collect();
                for &key in &visible[hidden_keys(visible.len(), window)..] {
                    row[key] = false;
                }
            }
        }
        mask
    }
}

impl PackedSegment {
    /// The ranges of tokens that it attends to, and the column of its scores at which each starts.
    fn key_ranges(&self) -> impl Iterator<Item = (&Range<usize>, usize)> {
        let columns = self.path.iter().scan(0, |column, range| {
            let start = *column;
            *column += range.len();
            Some(start)
        });
        self.path.iter().zip(columns)
    }

    /// The number of tokens of its ancestors.
    fn ancestor_tokens(&self) -> usize {
        let (_, ancestors) = self.path.split_last().unwrap_or((&self.tokens, &[]));
        ancestors.iter().map(ExactSizeIterator::len).sum()
    }
}

/// The number of keys before a window, given the number of keys up to the query.
fn hidden_keys(keys: usize, window: Option<usize>) -> usize {
    window.map_or(0, |window| keys.saturating_sub(window))
}

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
    match (operand(&queries), operand(&keys), operand(&values)) {
        (Some(q), Some(k), Some(v)) => {
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
        Arch::new().dispatch(
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
            Arch::new().dispatch(
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

/// Turns scores into weights that sum to 1.
#[inline(always)]
fn normalize(scores: &mut [f32]) {
    let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    for score in scores.iter_mut() {
        *score = exp(*score - max);
    }
    let total: f32 = scores.iter().sum();
    for score in scores.iter_mut() {
        *score /= total;
    }
}

impl HostOp<3> for PackedAttention {
    const SAVES: SavedTensors = SavedTensors::InputsAndOutput;

    fn forward(&self, inputs: [&[f32]; 3]) -> Vec<f32> {
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
        self.interleave(&heads.collect::<Vec<_>>())
    }

    fn backward(
        &self,
        inputs: [&[f32]; 3],
        output: &[f32],
        upstream: &[f32],
        _needs_gradient: [bool; 3],
    ) -> [Vec<f32>; 3] {
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
    }
}

fn add(sum: &mut [f32], addend: &[f32]) {
    sum.iter_mut()
        .zip(addend)
        .for_each(|(sum, value)| *sum += value);
}
