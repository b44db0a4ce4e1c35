//! Attention over packed tokens in bfloat16: the formulas of [`packed_attention`](super::packed_attention), with
//! the products of [`bf16`](super::bf16).
//!
//! The work is cut into blocks of queries that share a key head. A block computes only the scores of the keys that
//! its last query may see, and its products include all query heads of the key head.
//!
//! The result for a token of a response is the same, to the last bit (denormal numbers aside), as that of
//! [`bf16_decode`](super::bf16_decode). For that, both sum over the same keys in the same order; sums run over
//! pairs of keys, and a response begins with a new pair.

use std::ops::Range;

use half::bf16;
use rayon::prelude::*;

use super::{
    bf16::{
        Bf16Unit, Left, Output, Panels, Source, Target, TransposedRows, product, round_all, widen,
    },
    exp::normalize,
    host::{Buffer, HostOp, Number, SavedTensors, Values},
    matrix::Cores,
    packing::{Packing, hidden_keys},
    vectorized,
};

/// Tokens whose queries are computed together. Larger blocks compute more scores that are masked.
const BLOCK: usize = 64;

#[derive(Clone, Debug)]
pub(super) struct Bf16Attention {
    unit: Bf16Unit,
    packing: Packing,
    window: Option<usize>,
    heads: usize,
    kv_heads: usize,
    size: usize,
}

/// Consecutive queries of one segment, and the keys up to the last of them.
struct Block {
    queries: Range<usize>,
    /// The ranges of the segment's ancestors.
    ancestors: Vec<Range<usize>>,
    /// The tokens of the segment itself, up to the last query.
    segment_keys: Range<usize>,
    /// Whether a key of zeros follows the ancestors, so that the segment begins with a new pair.
    is_padded: bool,
}

impl Block {
    fn ancestor_count(&self) -> usize {
        self.ancestors.iter().map(ExactSizeIterator::len).sum()
    }

    /// The number of keys, including that of zeros.
    fn key_count(&self) -> usize {
        self.ancestor_count() + usize::from(self.is_padded) + self.segment_keys.len()
    }

    /// The tokens of its keys, in order; `None` for the key of zeros.
    fn key_tokens(&self) -> impl Iterator<Item = Option<usize>> {
        let ancestors = self.ancestors.iter().cloned().flatten().map(Some);
        let padding = self.is_padded.then_some(None);
        ancestors
            .chain(padding)
            .chain(self.segment_keys.clone().map(Some))
    }
}

/// The scores of one query: those of the keys before its segment, then those of its segment up to itself.
pub(super) struct VisibleScores {
    /// Keys before the segment.
    pub(super) before: usize,
    /// Whether the score of a key of zeros follows them.
    pub(super) is_padded: bool,
    /// Keys of the segment up to the query.
    pub(super) segment_keys: usize,
    pub(super) window: Option<usize>,
}

impl VisibleScores {
    /// Turns the scores into weights that sum to 1. The weights of masked keys are 0.
    #[inline(always)]
    pub(super) fn normalize(&self, scores: &mut [f32]) {
        let padding = usize::from(self.is_padded);
        let (visible, masked) = scores.split_at_mut(self.before + padding + self.segment_keys);
        masked.fill(0.0);
        let mut hidden = hidden_keys(self.before + self.segment_keys, self.window);
        if hidden > self.before {
            hidden += padding;
        } else if self.is_padded {
            visible[self.before] = f32::NEG_INFINITY;
        }
        let (hidden, in_window) = visible.split_at_mut(hidden);
        hidden.fill(0.0);
        normalize(in_window);
    }
}

/// The inputs of a block for one key head, as contiguous rows. `n` queries, `G` query heads per key head, `m` keys.
struct Inputs {
    /// `[n · G, S]`
    queries: Vec<bf16>,
    /// `[m, S]`
    keys: Vec<bf16>,
    /// `[m, S]`
    values: Vec<bf16>,
}

/// The gradients of one block for one key head.
struct BlockGradients {
    /// `[n, G · S]`
    queries: Vec<f32>,
    /// `[m, S]`
    keys: Vec<f32>,
    /// `[m, S]`
    values: Vec<f32>,
}

impl Bf16Attention {
    pub(super) fn new(
        unit: Bf16Unit,
        packing: Packing,
        window: Option<usize>,
        [heads, kv_heads, size]: [usize; 3],
    ) -> Self {
        Self {
            unit,
            packing,
            window,
            heads,
            kv_heads,
            size,
        }
    }

    fn per_group(&self) -> usize {
        self.heads / self.kv_heads
    }

    fn blocks(&self) -> Vec<Block> {
        let mut blocks = Vec::new();
        for segment in self.packing.nonempty() {
            let mut start = segment.tokens.start;
            while start < segment.tokens.end {
                let end = segment.tokens.end.min(start + BLOCK);
                let mut ancestors = segment.path.clone();
                ancestors.pop();
                let mut block = Block {
                    queries: start..end,
                    ancestors,
                    segment_keys: segment.tokens.start..end,
                    is_padded: false,
                };
                block.is_padded = segment.is_response && block.ancestor_count() % 2 == 1;
                blocks.push(block);
                start = end;
            }
        }
        blocks
    }

    /// Runs `run` for every key head and block, in parallel. The results of one key head are adjacent.
    fn for_each_block<R: Send>(
        &self,
        blocks: &[Block],
        run: impl Fn(usize, &Block) -> R + Sync,
    ) -> Vec<R> {
        let pairs = (0..self.kv_heads * blocks.len()).into_par_iter();
        pairs
            .with_max_len(1)
            .map(|index| run(index / blocks.len(), &blocks[index % blocks.len()]))
            .collect()
    }

    /// The rows of these tokens for the query heads of a key head: `[T, H, S]` to `[n · G, S]`.
    fn query_rows(&self, values: &[bf16], head: usize, tokens: Range<usize>) -> Vec<bf16> {
        let (width, stride) = (self.per_group() * self.size, self.heads * self.size);
        let mut rows = Vec::with_capacity(tokens.len() * width);
        for token in tokens {
            let start = token * stride + head * width;
            rows.extend_from_slice(&values[start..start + width]);
        }
        rows
    }

    fn inputs(&self, [queries, keys, values]: [&[bf16]; 3], head: usize, block: &Block) -> Inputs {
        let gather = |values: &[bf16]| {
            let mut rows = Vec::with_capacity(block.key_count() * self.size);
            for token in block.key_tokens() {
                let Some(token) = token else {
                    rows.resize(rows.len() + self.size, bf16::ZERO);
                    continue;
                };
                let start = (token * self.kv_heads + head) * self.size;
                rows.extend_from_slice(&values[start..start + self.size]);
            }
            rows
        };
        Inputs {
            queries: self.query_rows(queries, head, block.queries.clone()),
            keys: gather(keys),
            values: gather(values),
        }
    }

    /// Panels of `rows` rows of a head, whose columns are the rows of a product's result.
    fn by_rows(&self, values: &[bf16], rows: usize) -> Panels {
        Panels::of_rows(self.unit, Source::bf16(values, rows, self.size, self.size))
    }

    fn by_columns(&self, values: &[bf16], rows: usize, columns: usize, stride: usize) -> Panels {
        Panels::of_columns(self.unit, Source::bf16(values, rows, columns, stride))
    }

    /// The attention weights, `[n · G, stride]`, with `stride` the number of keys rounded up to an even number.
    /// Masked weights are 0.
    fn weights(&self, inputs: &Inputs, block: &Block, stride: usize) -> Vec<f32> {
        let (keys, group) = (block.key_count(), self.per_group());
        let rows = block.queries.len() * group;
        let mut weights = vec![0.0; rows * stride];
        let target = Target::new(Output::F32(&mut weights), stride);
        product(
            Left::rows(&inputs.queries, rows, self.size, self.size),
            &self.by_rows(&inputs.keys, keys),
            target.times((self.size as f32).sqrt().recip()),
            Cores::One,
        );
        let earlier = block.segment_keys.len() - block.queries.len();
        vectorized(
            #[inline(always)]
            || {
                for (index, row) in weights.chunks_exact_mut(stride).enumerate() {
                    let visible = VisibleScores {
                        before: block.ancestor_count(),
                        is_padded: block.is_padded,
                        segment_keys: earlier + index / group + 1,
                        window: self.window,
                    };
                    visible.normalize(row);
                }
            },
        );
        weights
    }

    /// The output of a block for one key head, `[n, G · S]`.
    fn attend(&self, inputs: &Inputs, block: &Block) -> Vec<bf16> {
        let keys = block.key_count();
        let stride = keys.next_multiple_of(2);
        let weights = rounded(&self.weights(inputs, block, stride));
        let rows = weights.len() / stride;
        let mut output = vec![bf16::ZERO; rows * self.size];
        product(
            Left::rows(&weights, rows, stride, stride),
            &self.by_columns(&inputs.values, keys, self.size, self.size),
            Target::new(Output::Bf16(&mut output), self.size),
            Cores::One,
        );
        output
    }

    /// The gradients of a block for one key head, given its output and the output's gradient, both `[n, G · S]`.
    fn differentiate(
        &self,
        inputs: &Inputs,
        block: &Block,
        output: &[bf16],
        upstream: &[bf16],
    ) -> BlockGradients {
        let (size, keys) = (self.size, block.key_count());
        let stride = keys.next_multiple_of(2);
        let weights = self.weights(inputs, block, stride);
        let rows = weights.len() / stride;
        let mut scores = vec![0.0; weights.len()];
        product(
            Left::rows(upstream, rows, size, size),
            &self.by_rows(&inputs.values, keys),
            Target::new(Output::F32(&mut scores), stride),
            Cores::One,
        );
        vectorized(
            #[inline(always)]
            || {
                let outputs = output.chunks_exact(size).zip(upstream.chunks_exact(size));
                let weights = weights.chunks_exact(stride);
                let rows = scores.chunks_exact_mut(stride).zip(weights);
                for ((scores, weights), (output, upstream)) in rows.zip(outputs) {
                    let products = output
                        .iter()
                        .zip(upstream)
                        .map(|(o, g)| widen(*o) * widen(*g));
                    let upstream_dot_output: f32 = products.sum();
                    for (score, weight) in scores.iter_mut().zip(weights) {
                        *score = weight * (*score - upstream_dot_output);
                    }
                }
            },
        );
        let (weights, scores) = (rounded(&weights), rounded(&scores));
        let scale = (size as f32).sqrt().recip();
        let transposed = |left: &[bf16], right: &[bf16], factor: f32| {
            let left = Source::bf16(left, rows, keys, stride);
            let mut sums = vec![0.0; keys * size];
            product(
                TransposedRows::of(self.unit, left).left(),
                &self.by_columns(right, rows, size, size),
                Target::new(Output::F32(&mut sums), size).times(factor),
                Cores::One,
            );
            sums
        };
        let mut queries = vec![0.0; rows * size];
        product(
            Left::rows(&scores, rows, stride, stride),
            &self.by_columns(&inputs.keys, keys, size, size),
            Target::new(Output::F32(&mut queries), size).times(scale),
            Cores::One,
        );
        BlockGradients {
            queries,
            keys: transposed(&scores, &inputs.queries, scale),
            values: transposed(&weights, upstream, 1.0),
        }
    }

    /// Writes the blocks of all key heads, each `[n, G · S]`, to `[T, H, S]`.
    fn scatter_queries<'a, T: Number>(
        &self,
        blocks: &[Block],
        results: impl Iterator<Item = &'a [T]>,
    ) -> Vec<T> {
        let (width, stride) = (self.per_group() * self.size, self.heads * self.size);
        let mut output = vec![T::default(); self.packing.tokens() * stride];
        for (index, rows) in results.enumerate() {
            let (head, block) = (index / blocks.len(), &blocks[index % blocks.len()]);
            for (token, row) in block.queries.clone().zip(rows.chunks_exact(width)) {
                let start = token * stride + head * width;
                output[start..start + width].copy_from_slice(row);
            }
        }
        output
    }

    /// Adds the gradients of all blocks to those of their keys or values: `[T, K, S]`. Blocks are added in their
    /// order, so the sum does not depend on the threads.
    fn sum_by_key<'a>(
        &self,
        blocks: &[Block],
        results: impl Iterator<Item = &'a [f32]>,
    ) -> Vec<f32> {
        let mut sums = vec![0.0; self.packing.tokens() * self.kv_heads * self.size];
        for (index, rows) in results.enumerate() {
            let (head, block) = (index / blocks.len(), &blocks[index % blocks.len()]);
            for (token, row) in block.key_tokens().zip(rows.chunks_exact(self.size)) {
                let Some(token) = token else { continue };
                let start = (token * self.kv_heads + head) * self.size;
                let sums = &mut sums[start..start + self.size];
                for (sum, value) in sums.iter_mut().zip(row) {
                    *sum += value;
                }
            }
        }
        sums
    }
}

impl HostOp<3> for Bf16Attention {
    const SAVES: SavedTensors = SavedTensors::InputsAndOutput;

    fn forward(&self, inputs: [Values<'_>; 3]) -> Buffer {
        let inputs = inputs.map(bf16::slice);
        let blocks = self.blocks();
        let outputs = self.for_each_block(&blocks, |head, block| {
            self.attend(&self.inputs(inputs, head, block), block)
        });
        Buffer::Bf16(self.scatter_queries(&blocks, outputs.iter().map(Vec::as_slice)))
    }

    fn backward(
        &self,
        inputs: [Values<'_>; 3],
        output: Values<'_>,
        upstream: Values<'_>,
        _needs_gradient: [bool; 3],
    ) -> [Buffer; 3] {
        let inputs = inputs.map(bf16::slice);
        let output = bf16::slice(output);
        let upstream = upstream.rounded();
        let blocks = self.blocks();
        let gradients = self.for_each_block(&blocks, |head, block| {
            let rows = |values| self.query_rows(values, head, block.queries.clone());
            let inputs = self.inputs(inputs, head, block);
            self.differentiate(&inputs, block, &rows(output), &rows(&upstream))
        });
        let (queries, (keys, values)) = rayon::join(
            || self.scatter_queries(&blocks, gradients.iter().map(|block| &*block.queries)),
            || {
                let keys = gradients.iter().map(|block| &*block.keys);
                let values = gradients.iter().map(|block| &*block.values);
                (
                    self.sum_by_key(&blocks, keys),
                    self.sum_by_key(&blocks, values),
                )
            },
        );
        [queries, keys, values].map(Buffer::F32)
    }
}

fn rounded(values: &[f32]) -> Vec<bf16> {
    let mut output = vec![bf16::ZERO; values.len()];
    round_all(values, &mut output);
    output
}
