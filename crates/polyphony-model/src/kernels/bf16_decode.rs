//! Decoding attention in bfloat16: one new token per row attends to the row's prompt and response. Keys and values
//! are cached as packed operands, so that their products need no preparation. The sums are those of
//! [`bf16_attention`](super::bf16_attention).

use half::bf16;

use super::{
    bf16::{Bf16Unit, Left, Output, Panels, Source, Target, product, round_all},
    bf16_attention::VisibleScores,
    for_each_chunk,
    matrix::Cores,
    vectorized,
};

/// Rows whose queries are computed together.
const ROWS: usize = 4;

/// The keys and values of consecutive tokens for one key head.
#[derive(Debug)]
pub(crate) struct PackedKv {
    /// `[S, tokens]`
    keys: Panels,
    /// `[tokens, S]`
    values: Panels,
}

impl PackedKv {
    /// The keys and values of a prompt, each `[tokens, S]`.
    pub(crate) fn of_prompt(unit: Bf16Unit, keys: &[bf16], values: &[bf16], size: usize) -> Self {
        let tokens = keys.len() / size;
        Self {
            keys: Panels::of_rows(unit, Source::bf16(keys, tokens, size, size)),
            values: Panels::of_columns(unit, Source::bf16(values, tokens, size, size)),
        }
    }

    /// Memory for the keys and values of a response.
    pub(crate) fn with_capacity(unit: Bf16Unit, tokens: usize, size: usize) -> Self {
        Self {
            keys: Panels::with_columns(unit, size, tokens),
            values: Panels::with_inner(unit, size, tokens),
        }
    }

    /// Adds a token.
    pub(crate) fn push(&mut self, key: &[bf16], value: &[bf16]) {
        self.keys.push_column(key);
        self.values.push_inner(value);
    }

    fn tokens(&self) -> usize {
        self.keys.columns()
    }
}

/// What one layer's attention reads, besides queries. Rows with the same prompt are adjacent.
pub(crate) struct PackedContext<'a> {
    /// For each prompt, its key heads.
    pub(crate) prompts: &'a [Vec<PackedKv>],
    /// For each slot, its key heads.
    pub(crate) slots: &'a [Vec<PackedKv>],
    /// For each row its prompt and its slot.
    pub(crate) rows: &'a [(usize, usize)],
    pub(crate) window: Option<usize>,
    /// Query heads.
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    /// Numbers of a head.
    pub(crate) size: usize,
}

impl PackedContext<'_> {
    /// The attention of every row and head.
    ///
    /// # Shapes
    /// - queries and output `[R, H, S]`
    pub(crate) fn attend(&self, queries: &[bf16]) -> Vec<bf16> {
        // Adjacent rows with the same prompt, as ranges.
        let mut blocks = Vec::new();
        let mut first = 0;
        for rows in self.rows.chunk_by(|(a, _), (b, _)| a == b) {
            for block in rows.chunks(ROWS) {
                blocks.push((first, block));
                first += block.len();
            }
        }
        let mut outputs = vec![Vec::new(); blocks.len() * self.kv_heads];
        for_each_chunk(&mut outputs, 1, |task, output| {
            let (first, rows) = blocks[task / self.kv_heads];
            output[0] = self.attend_block(queries, first, rows, task % self.kv_heads);
        });
        let width = self.heads / self.kv_heads * self.size;
        let mut output = vec![bf16::ZERO; queries.len()];
        for (task, values) in outputs.into_iter().enumerate() {
            let (first, head) = (blocks[task / self.kv_heads].0, task % self.kv_heads);
            for (row, values) in values.chunks_exact(width).enumerate() {
                let start = ((first + row) * self.kv_heads + head) * width;
                output[start..start + width].copy_from_slice(values);
            }
        }
        output
    }

    /// The outputs of one key head for adjacent rows with the same prompt, `[rows, G · S]`.
    fn attend_block(
        &self,
        queries: &[bf16],
        first: usize,
        rows: &[(usize, usize)],
        head: usize,
    ) -> Vec<bf16> {
        let (size, group) = (self.size, self.heads / self.kv_heads);
        let width = group * size;
        let mut block = Vec::with_capacity(rows.len() * width);
        for row in first..first + rows.len() {
            let start = (row * self.kv_heads + head) * width;
            block.extend_from_slice(&queries[start..start + width]);
        }
        let responses = rows.iter().map(|(_, slot)| &self.slots[*slot][head]);
        let prompt = &self.prompts[rows[0].0][head];
        let before = prompt.tokens();
        // The prompt's columns are an even number, so that the response begins with a new pair.
        let start = before.next_multiple_of(2);
        let decoded = self.slots[rows[0].1][head].tokens();
        let stride = (start + decoded).next_multiple_of(2);
        let scale = (size as f32).sqrt().recip();
        let heads = rows.len() * group;
        let mut scores = vec![0.0; heads * stride];
        let left = |rows| Left::rows(rows, rows.len() / size, size, size);
        let target = Target::new(Output::F32(&mut scores), stride).times(scale);
        product(left(&block), &prompt.keys, target, Cores::One);
        let queries = block.chunks_exact(width);
        let rows_of_scores = scores.chunks_exact_mut(group * stride);
        for ((queries, response), scores) in queries.zip(responses.clone()).zip(rows_of_scores) {
            let target = Target::new(Output::F32(&mut scores[start..]), stride).times(scale);
            product(left(queries), &response.keys, target, Cores::One);
        }
        let mut weights = vec![bf16::ZERO; scores.len()];
        let visible = VisibleScores {
            before,
            is_padded: start > before,
            segment_keys: decoded,
            window: self.window,
        };
        vectorized(
            #[inline(always)]
            || {
                for scores in scores.chunks_exact_mut(stride) {
                    visible.normalize(scores);
                }
            },
        );
        round_all(&scores, &mut weights);
        let mut sums = vec![0.0; heads * size];
        let of_prompt = Left::rows(&weights, heads, start, stride);
        let target = Target::new(Output::F32(&mut sums), size);
        product(of_prompt, &prompt.values, target, Cores::One);
        let rows_of_weights = weights.chunks_exact(group * stride);
        let rows_of_sums = sums.chunks_exact_mut(width);
        for ((weights, response), sums) in rows_of_weights.zip(responses).zip(rows_of_sums) {
            let of_response = Left::rows(&weights[start..], group, stride - start, stride);
            let target = Target::new(Output::F32(sums), size).continued();
            product(of_response, &response.values, target, Cores::One);
        }
        let mut output = vec![bf16::ZERO; sums.len()];
        round_all(&sums, &mut output);
        output
    }
}
