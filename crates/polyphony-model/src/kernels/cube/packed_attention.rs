//! Attention over packed tokens, in one launch, and its gradients in two. Memory is linear in the number of tokens:
//! scores are computed in tiles, and again in the backward pass (Dao et al., 2022, arXiv 2205.14135).
//!
//! The tokens of each segment are divided into tiles. A cube of the forward pass has one tile of queries of one head,
//! and goes through the keys on the path of its segment. A cube of the backward pass has either such a tile, for the
//! gradient of queries, or a tile of keys of one key head, for the gradients of keys and values; it goes through the
//! queries that attend to it. So every sum has one order, and no two cubes write the same number. The formulas are
//! those of [`crate::kernels::packed_attention`].

use std::sync::Arc;

use burn::{
    backend::Cube,
    tensor::{Shape, Tensor},
};
use cubecl::{ir::ElemType, prelude::*};

use super::{
    super::{
        differentiable::{Op, apply},
        packing::{Packing, RANGE_NUMBERS, TILE_NUMBERS, Tables},
    },
    CubeTensor, UNITS, buffer, empty,
    few_rows::{vector_size, vector_sum},
    float_type, operand, units,
};

/// Tokens of a tile.
const TILE: usize = 32;

/// Numbers of a head that are in shared memory at once.
const CHUNK: usize = 32;

/// Units side by side in a tile of scores, and units on top of each other.
const ACROSS: usize = 8;
const DOWN: usize = UNITS / ACROSS;

/// Rows and columns of a tile of scores that a unit computes: every `DOWN`-th row, and every `ACROSS`-th column.
const ROWS: usize = TILE / DOWN;
const COLUMNS: usize = TILE / ACROSS;

/// The distance of rows of scores in shared memory, such that the rows of units side by side lie in different banks.
const SCORE_STRIDE: usize = TILE + 4;

/// Units that share a row of scores for its softmax.
const SHARES: usize = UNITS / TILE;

/// The score of a key that is not attended to; any score below half of it counts as such.
const HIDDEN: f32 = -3.0e38;

/// [`crate::kernels::packed_attention`]; `None` unless all tensors are on a GPU and of one type.
pub(crate) fn packed_attention(
    queries: &Tensor<3>,
    keys: &Tensor<3>,
    values: &Tensor<3>,
    packing: &Packing,
    window: Option<usize>,
) -> Option<Tensor<3>> {
    let shape @ [_, heads, size] = queries.dims();
    let operands = [operand(queries)?, operand(keys)?, operand(values)?];
    let dtype = operands[0].dtype();
    if operands.iter().any(|operand| operand.dtype() != dtype) {
        return None;
    }
    let kv_heads = keys.dims()[1];
    let op = PackedAttention {
        tables: packing.tables(TILE, &queries.device()),
        window: window.unwrap_or(u32::MAX as usize) as u32,
        heads,
        kv_heads,
        plan: Plan {
            size,
            vector: vector_size(size),
        },
    };
    Some(apply(op, operands, shape))
}

/// What is fixed when the kernels are compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Plan {
    size: usize,
    /// Numbers that a unit reads at once.
    vector: usize,
}

impl Plan {
    /// Vectors of a head.
    fn per_head(&self) -> usize {
        self.size / self.vector
    }

    /// Parts of a head that are in shared memory one after the other.
    fn chunks(&self) -> usize {
        self.size.div_ceil(CHUNK)
    }

    /// Vectors of a chunk.
    fn across(&self) -> usize {
        CHUNK / self.vector
    }

    /// The distance of rows of a chunk in shared memory. With the gap, rows side by side lie in different banks.
    fn stride(&self) -> usize {
        self.across() + 1
    }

    /// Vectors of a tile in shared memory.
    fn tile_vectors(&self) -> usize {
        TILE * self.stride()
    }

    /// Vectors of each chunk of a row for which a unit adds up weighted rows.
    fn own(&self) -> usize {
        self.across() / ACROSS
    }

    /// Sums of weighted rows of a unit.
    fn sums(&self) -> usize {
        ROWS * self.chunks() * self.own()
    }

    /// The index of a sum.
    fn sum(&self, row: usize, chunk: usize, vector: usize) -> usize {
        (row * self.chunks() + chunk) * self.own() + vector
    }
}

#[derive(Clone, Debug)]
struct PackedAttention {
    tables: Arc<Tables>,
    /// The number of last tokens that are attended to.
    window: u32,
    heads: usize,
    kv_heads: usize,
    plan: Plan,
}

/// What the backward pass needs.
#[derive(Clone, Debug)]
struct Saved {
    queries: CubeTensor,
    keys: CubeTensor,
    values: CubeTensor,
    output: CubeTensor,
    /// The logarithm of the sum of the exponentials of each query's scores, `[T, H]`.
    log_sums: CubeTensor,
}

impl PackedAttention {
    fn scale(&self) -> f32 {
        (self.plan.size as f32).sqrt().recip()
    }

    /// Cubes for every tile of every one of `heads` heads.
    fn cubes(&self, heads: usize) -> CubeCount {
        CubeCount::new_2d(self.tables.tiles as u32, heads as u32)
    }

    /// The numbers of the tables, on the device of the inputs.
    fn numbers(&self) -> CubeTensor {
        let numbers = self.tables.numbers.clone().try_into_primitive::<Cube>();
        numbers.unwrap_or_else(|_| unreachable!("they were made on the device of the inputs"))
    }
}

impl Op<Cube, 3> for PackedAttention {
    type Saved = Saved;

    fn forward(
        &self,
        [queries, keys, values]: [&CubeTensor; 3],
        shape: Shape,
    ) -> (CubeTensor, Saved) {
        let tokens = shape[0];
        let output = buffer(queries, shape, queries.dtype);
        let log_sums = empty(queries, Shape::new([tokens, self.heads]));
        attend_packed::launch(
            &queries.client,
            self.cubes(self.heads),
            units(),
            self.plan.vector,
            queries.clone().into_buffer_arg(),
            keys.clone().into_buffer_arg(),
            values.clone().into_buffer_arg(),
            self.numbers().into_buffer_arg(),
            output.clone().into_buffer_arg(),
            log_sums.clone().into_buffer_arg(),
            self.tables.tiles as u32,
            self.heads as u32,
            self.kv_heads as u32,
            self.window,
            self.scale(),
            self.plan,
            float_type(queries),
        );
        let saved = Saved {
            queries: queries.clone(),
            keys: keys.clone(),
            values: values.clone(),
            output: output.clone(),
            log_sums,
        };
        (output, saved)
    }

    fn backward(
        &self,
        saved: Saved,
        shapes: [&Shape; 3],
        upstream: CubeTensor,
        _needs_gradient: [bool; 3],
    ) -> [Option<CubeTensor>; 3] {
        let Saved {
            queries,
            keys,
            values,
            output,
            log_sums,
        } = saved;
        let client = queries.client.clone();
        let dtype = float_type(&queries);
        let gradients = shapes.map(|shape| buffer(&queries, shape.clone(), queries.dtype));
        let [query_gradient, key_gradient, value_gradient] = gradients.clone();
        let deltas = empty(&queries, log_sums.meta.shape().clone());
        differentiate_queries::launch(
            &client,
            self.cubes(self.heads),
            units(),
            self.plan.vector,
            queries.clone().into_buffer_arg(),
            keys.clone().into_buffer_arg(),
            values.clone().into_buffer_arg(),
            output.into_buffer_arg(),
            upstream.clone().into_buffer_arg(),
            log_sums.clone().into_buffer_arg(),
            self.numbers().into_buffer_arg(),
            deltas.clone().into_buffer_arg(),
            query_gradient.into_buffer_arg(),
            self.tables.tiles as u32,
            self.heads as u32,
            self.kv_heads as u32,
            self.window,
            self.scale(),
            self.plan,
            dtype,
        );
        differentiate_keys::launch(
            &client,
            self.cubes(self.kv_heads),
            units(),
            self.plan.vector,
            queries.into_buffer_arg(),
            keys.into_buffer_arg(),
            values.into_buffer_arg(),
            upstream.into_buffer_arg(),
            log_sums.into_buffer_arg(),
            deltas.into_buffer_arg(),
            self.numbers().into_buffer_arg(),
            key_gradient.into_buffer_arg(),
            value_gradient.into_buffer_arg(),
            self.tables.tiles as u32,
            self.heads as u32,
            self.kv_heads as u32,
            self.window,
            self.scale(),
            self.plan,
            dtype,
        );
        gradients.map(Some)
    }
}

/// Tokens that follow each other in the packed row.
#[derive(CubeType)]
struct Tokens {
    first: usize,
    count: usize,
    /// The position of the first one in its sequence.
    position: usize,
}

/// At most [`TILE`] rows: one head of tokens that follow each other in the packed row.
#[derive(CubeType)]
struct Rows {
    /// The first token.
    first: usize,
    count: usize,
    head: usize,
    /// Heads of each token.
    heads: usize,
}

#[cube]
fn tokens_at(table: &[u32], at: usize) -> Tokens {
    Tokens {
        first: table[at] as usize,
        count: table[at + 1] as usize,
        position: table[at + 2] as usize,
    }
}

/// Copies a chunk of the heads of a tile of rows to shared memory, `[TILE, CHUNK]`, with a gap of a vector after each
/// row. What is beyond the rows or the head is zero.
#[cube]
fn load<F: Float, N: Size>(
    source: &[Vector<F, N>],
    target: &mut [Vector<f32, N>],
    rows: &Rows,
    chunk: usize,
    #[comptime] plan: Plan,
) {
    let mut i = UNIT_POS as usize;
    while i < comptime!(TILE * plan.across()) {
        let row = i / plan.across();
        let column = i % plan.across();
        let from = column + chunk * plan.across();
        let mut value = Vector::<f32, N>::new(0.0f32);
        if row < rows.count && from < plan.per_head() {
            let at = ((rows.first + row) * rows.heads + rows.head) * plan.per_head() + from;
            value = Vector::<f32, N>::cast_from(source[at]);
        }
        target[row * plan.stride() + column] = value;
        i += UNITS;
    }
}

/// The scalar products of each row of `a` with each row of `b`, of which a unit computes [`ROWS`] times [`COLUMNS`].
#[cube]
fn products<F: Float, N: Size>(
    a: &[Vector<F, N>],
    a_rows: &Rows,
    b: &[Vector<F, N>],
    b_rows: &Rows,
    left: &mut [Vector<f32, N>],
    right: &mut [Vector<f32, N>],
    sums: &mut Array<f32>,
    #[comptime] plan: Plan,
) {
    let row = UNIT_POS as usize / ACROSS;
    let column = UNIT_POS as usize % ACROSS;
    #[unroll]
    for index in 0..comptime!(ROWS * COLUMNS) {
        sums[index] = 0.0f32;
    }
    for chunk in 0..plan.chunks() {
        load::<F, N>(a, left, a_rows, chunk, plan);
        load::<F, N>(b, right, b_rows, chunk, plan);
        sync_cube();
        for i in 0..plan.across() {
            #[unroll]
            for r in 0..ROWS {
                let value = left[(row + comptime!(r * DOWN)) * plan.stride() + i];
                #[unroll]
                for c in 0..COLUMNS {
                    let other = right[(column + comptime!(c * ACROSS)) * plan.stride() + i];
                    sums[comptime!(r * COLUMNS + c)] += vector_sum(value * other);
                }
            }
        }
        sync_cube();
    }
}

/// Adds the product of a tile of weights, `[TILE, TILE]`, with rows, `[TILE, S]`, to `sums`. A unit has [`ROWS`] rows of
/// the sums, and of each chunk every [`ACROSS`]-th vector.
#[cube]
fn add_weighted<F: Float, N: Size>(
    weights: &[f32],
    source: &[Vector<F, N>],
    rows: &Rows,
    right: &mut [Vector<f32, N>],
    sums: &mut Array<Vector<f32, N>>,
    #[comptime] plan: Plan,
) {
    let row = UNIT_POS as usize / ACROSS;
    let column = UNIT_POS as usize % ACROSS;
    #[unroll]
    for chunk in 0..plan.chunks() {
        load::<F, N>(source, right, rows, chunk.runtime(), plan);
        sync_cube();
        for i in 0..TILE {
            #[unroll]
            for r in 0..ROWS {
                let weight = weights[(row + comptime!(r * DOWN)) * SCORE_STRIDE + i];
                #[unroll]
                for c in 0..plan.own() {
                    sums[comptime!(plan.sum(r, chunk, c))] += Vector::new(weight)
                        * right[i * plan.stride() + column + comptime!(c * ACROSS)];
                }
            }
        }
        sync_cube();
    }
}

/// Writes the sums of [`add_weighted`], each row times a factor of its own, to the rows.
#[cube]
fn store<F: Float, N: Size>(
    sums: &Array<Vector<f32, N>>,
    factors: &Array<f32>,
    target: &mut [Vector<F, N>],
    rows: &Rows,
    #[comptime] plan: Plan,
) {
    let column = UNIT_POS as usize % ACROSS;
    #[unroll]
    for r in 0..ROWS {
        let row = UNIT_POS as usize / ACROSS + comptime!(r * DOWN);
        if row < rows.count {
            let start = ((rows.first + row) * rows.heads + rows.head) * plan.per_head();
            let factor = Vector::<f32, N>::new(factors[r]);
            #[unroll]
            for chunk in 0..plan.chunks() {
                #[unroll]
                for c in 0..plan.own() {
                    let to = column + comptime!(chunk * plan.across() + c * ACROSS);
                    if to < plan.per_head() {
                        let sum = sums[comptime!(plan.sum(r, chunk, c))];
                        target[start + to] = Vector::cast_from(sum * factor);
                    }
                }
            }
        }
    }
}

/// Whether a query attends to a key, given their positions in the sequence.
#[cube]
fn is_visible(query: usize, key: usize, window: u32) -> bool {
    key <= query && query - key < window as usize
}

/// A multiple of [`TILE`] such that the keys of a range before it lie before the window of a query, and so of all later
/// ones.
#[cube]
fn hidden_tiles(query: usize, keys: &Tokens, window: u32) -> usize {
    let end = keys.position + window as usize;
    // A window of all tokens would overflow the sum.
    let mut hidden = 0usize.runtime();
    if window < u32::MAX && query + 1 > end {
        hidden = (query + 1 - end) / TILE * TILE;
    }
    hidden
}

/// The part of a range from `start` on that fits into a tile.
#[cube]
fn tile_of(range: &Tokens, start: usize) -> Tokens {
    Tokens {
        first: range.first + start,
        count: usize::min(range.count - start, TILE),
        position: range.position + start,
    }
}

#[cube]
fn rows_of(tokens: &Tokens, head: usize, heads: usize) -> Rows {
    Rows {
        first: tokens.first,
        count: tokens.count,
        head,
        heads,
    }
}

#[cube(launch)]
fn attend_packed<F: Float, N: Size>(
    queries: &[Vector<F, N>],
    keys: &[Vector<F, N>],
    values: &[Vector<F, N>],
    table: &[u32],
    output: &mut [Vector<F, N>],
    log_sums: &mut [f32],
    tiles: u32,
    heads: u32,
    kv_heads: u32,
    window: u32,
    scale: f32,
    #[comptime] plan: Plan,
    #[define(F)] _dtype: ElemType,
) {
    let unit = UNIT_POS as usize;
    let (heads, kv_heads) = (heads as usize, kv_heads as usize);
    let head = CUBE_POS_Y as usize;
    let kv_head = head / (heads / kv_heads);
    let tile = CUBE_POS_X as usize * TILE_NUMBERS;
    let own = tokens_at(table, tile);
    let path = table[tile + 3] as usize;
    let ranges = table[tile + 4] as usize;
    let end = own.position + own.count;
    let query_rows = rows_of(&own, head, heads);

    let mut left = Shared::<[Vector<f32, N>]>::new_slice(plan.tile_vectors());
    let mut right = Shared::<[Vector<f32, N>]>::new_slice(plan.tile_vectors());
    let mut weights = Shared::<[f32]>::new_slice(comptime!(TILE * SCORE_STRIDE));
    // For each row the largest score so far, the sum of weights relative to it, and by what earlier sums shrink.
    let mut maxima = Shared::<[f32]>::new_slice(TILE);
    let mut totals = Shared::<[f32]>::new_slice(TILE);
    let mut shrinks = Shared::<[f32]>::new_slice(TILE);
    let mut parts = Shared::<[f32]>::new_slice(UNITS);
    if unit < TILE {
        maxima[unit] = f32::new(HIDDEN);
        totals[unit] = 0.0f32;
    }
    let mut scores = Array::<f32>::new(comptime!(ROWS * COLUMNS));
    let mut sums = Array::<Vector<f32, N>>::new(plan.sums());
    #[unroll]
    for index in 0..plan.sums() {
        sums[index] = Vector::new(0.0f32);
    }
    for range in path..path + ranges {
        let keys_of_range = tokens_at(table, range_start(tiles, range));
        let visible = usize::min(keys_of_range.count, end - keys_of_range.position);
        let mut start = hidden_tiles(own.position, &keys_of_range, window);
        while start < visible {
            let key_tokens = tile_of(&keys_of_range, start);
            let key_rows = rows_of(&key_tokens, kv_head, kv_heads);
            products::<F, N>(
                queries,
                &query_rows,
                keys,
                &key_rows,
                &mut left,
                &mut right,
                &mut scores,
                plan,
            );
            #[unroll]
            for r in 0..ROWS {
                let row = unit / ACROSS + comptime!(r * DOWN);
                #[unroll]
                for c in 0..COLUMNS {
                    let column = unit % ACROSS + comptime!(c * ACROSS);
                    let mut score = f32::new(HIDDEN);
                    if column < key_tokens.count
                        && is_visible(own.position + row, key_tokens.position + column, window)
                    {
                        score = scores[comptime!(r * COLUMNS + c)] * scale;
                    }
                    weights[row * SCORE_STRIDE + column] = score;
                }
            }
            sync_cube();
            update_softmax(
                &mut weights,
                &mut maxima,
                &mut totals,
                &mut shrinks,
                &mut parts,
            );
            #[unroll]
            for r in 0..ROWS {
                let shrink = Vector::<f32, N>::new(shrinks[unit / ACROSS + comptime!(r * DOWN)]);
                #[unroll]
                for index in 0..comptime!(plan.sums() / ROWS) {
                    sums[comptime!(r * (plan.sums() / ROWS) + index)] *= shrink;
                }
            }
            add_weighted::<F, N>(&weights, values, &key_rows, &mut right, &mut sums, plan);
            start += TILE;
        }
    }
    let mut factors = Array::<f32>::new(ROWS);
    #[unroll]
    for r in 0..ROWS {
        factors[r] = 1.0f32 / totals[unit / ACROSS + comptime!(r * DOWN)];
    }
    store::<F, N>(&sums, &factors, output, &query_rows, plan);
    if unit < own.count {
        log_sums[(own.first + unit) * heads + head] = maxima[unit] + totals[unit].ln();
    }
}

/// Turns a tile of scores into weights relative to the largest score of each row so far.
#[cube]
fn update_softmax(
    scores: &mut [f32],
    maxima: &mut [f32],
    totals: &mut [f32],
    shrinks: &mut [f32],
    parts: &mut [f32],
) {
    // Units that share a row, each with every `SHARES`-th column.
    let unit = UNIT_POS as usize;
    let row = unit / SHARES;
    let start = row * SCORE_STRIDE + unit % SHARES;
    let mut largest = f32::new(HIDDEN);
    #[unroll]
    for i in 0..comptime!(TILE / SHARES) {
        largest = f32::max(largest, scores[start + comptime!(i * SHARES)]);
    }
    parts[unit] = largest;
    sync_cube();
    let before = maxima[row];
    largest = before;
    #[unroll]
    for share in 0..SHARES {
        largest = f32::max(largest, parts[row * SHARES + share]);
    }
    let mut total = 0.0f32.runtime();
    #[unroll]
    for i in 0..comptime!(TILE / SHARES) {
        let at = start + comptime!(i * SHARES);
        let score = scores[at];
        let mut weight = 0.0f32.runtime();
        if score > comptime!(HIDDEN / 2.0) {
            weight = (score - largest).exp();
        }
        scores[at] = weight;
        total += weight;
    }
    sync_cube();
    parts[unit] = total;
    sync_cube();
    if unit % SHARES == 0 {
        let shrink = (before - largest).exp();
        let mut total = totals[row] * shrink;
        #[unroll]
        for share in 0..SHARES {
            total += parts[unit + share];
        }
        totals[row] = total;
        maxima[row] = largest;
        shrinks[row] = shrink;
    }
    sync_cube();
}

#[cube(launch)]
fn differentiate_queries<F: Float, N: Size>(
    queries: &[Vector<F, N>],
    keys: &[Vector<F, N>],
    values: &[Vector<F, N>],
    output: &[Vector<F, N>],
    upstream: &[Vector<F, N>],
    log_sums: &[f32],
    table: &[u32],
    deltas: &mut [f32],
    gradient: &mut [Vector<F, N>],
    tiles: u32,
    heads: u32,
    kv_heads: u32,
    window: u32,
    scale: f32,
    #[comptime] plan: Plan,
    #[define(F)] _dtype: ElemType,
) {
    let unit = UNIT_POS as usize;
    let (heads, kv_heads) = (heads as usize, kv_heads as usize);
    let head = CUBE_POS_Y as usize;
    let kv_head = head / (heads / kv_heads);
    let tile = CUBE_POS_X as usize * TILE_NUMBERS;
    let own = tokens_at(table, tile);
    let path = table[tile + 3] as usize;
    let ranges = table[tile + 4] as usize;
    let end = own.position + own.count;
    let query_rows = rows_of(&own, head, heads);

    let mut left = Shared::<[Vector<f32, N>]>::new_slice(plan.tile_vectors());
    let mut right = Shared::<[Vector<f32, N>]>::new_slice(plan.tile_vectors());
    let mut weights = Shared::<[f32]>::new_slice(comptime!(TILE * SCORE_STRIDE));
    let mut row_log_sums = Shared::<[f32]>::new_slice(TILE);
    let mut row_deltas = Shared::<[f32]>::new_slice(TILE);
    // The scalar product of each row's output with its gradient.
    if unit < TILE {
        row_log_sums[unit] = 0.0f32;
        row_deltas[unit] = 0.0f32;
        if unit < own.count {
            let row = (own.first + unit) * heads + head;
            let mut delta = Vector::<f32, N>::new(0.0f32);
            for i in 0..plan.per_head() {
                let at = row * plan.per_head() + i;
                delta += Vector::cast_from(output[at]) * Vector::cast_from(upstream[at]);
            }
            row_deltas[unit] = vector_sum(delta);
            row_log_sums[unit] = log_sums[row];
            deltas[row] = row_deltas[unit];
        }
    }
    let mut scores = Array::<f32>::new(comptime!(ROWS * COLUMNS));
    let mut slopes = Array::<f32>::new(comptime!(ROWS * COLUMNS));
    let mut sums = Array::<Vector<f32, N>>::new(plan.sums());
    #[unroll]
    for index in 0..plan.sums() {
        sums[index] = Vector::new(0.0f32);
    }
    sync_cube();
    for range in path..path + ranges {
        let keys_of_range = tokens_at(table, range_start(tiles, range));
        let visible = usize::min(keys_of_range.count, end - keys_of_range.position);
        let mut start = hidden_tiles(own.position, &keys_of_range, window);
        while start < visible {
            let key_tokens = tile_of(&keys_of_range, start);
            let key_rows = rows_of(&key_tokens, kv_head, kv_heads);
            products::<F, N>(
                queries,
                &query_rows,
                keys,
                &key_rows,
                &mut left,
                &mut right,
                &mut scores,
                plan,
            );
            products::<F, N>(
                upstream,
                &query_rows,
                values,
                &key_rows,
                &mut left,
                &mut right,
                &mut slopes,
                plan,
            );
            #[unroll]
            for r in 0..ROWS {
                let row = unit / ACROSS + comptime!(r * DOWN);
                #[unroll]
                for c in 0..COLUMNS {
                    let column = unit % ACROSS + comptime!(c * ACROSS);
                    let mut slope = 0.0f32.runtime();
                    if row < own.count
                        && column < key_tokens.count
                        && is_visible(own.position + row, key_tokens.position + column, window)
                    {
                        let index = comptime!(r * COLUMNS + c);
                        let weight = (scores[index] * scale - row_log_sums[row]).exp();
                        slope = weight * (slopes[index] - row_deltas[row]);
                    }
                    weights[row * SCORE_STRIDE + column] = slope;
                }
            }
            sync_cube();
            add_weighted::<F, N>(&weights, keys, &key_rows, &mut right, &mut sums, plan);
            start += TILE;
        }
    }
    let mut factors = Array::<f32>::new(ROWS);
    #[unroll]
    for r in 0..ROWS {
        factors[r] = scale;
    }
    store::<F, N>(&sums, &factors, gradient, &query_rows, plan);
}

#[cube(launch)]
fn differentiate_keys<F: Float, N: Size>(
    queries: &[Vector<F, N>],
    keys: &[Vector<F, N>],
    values: &[Vector<F, N>],
    upstream: &[Vector<F, N>],
    log_sums: &[f32],
    deltas: &[f32],
    table: &[u32],
    key_gradient: &mut [Vector<F, N>],
    value_gradient: &mut [Vector<F, N>],
    tiles: u32,
    heads: u32,
    kv_heads: u32,
    window: u32,
    scale: f32,
    #[comptime] plan: Plan,
    #[define(F)] _dtype: ElemType,
) {
    let unit = UNIT_POS as usize;
    let (heads, kv_heads) = (heads as usize, kv_heads as usize);
    let kv_head = CUBE_POS_Y as usize;
    let group = heads / kv_heads;
    let tile = CUBE_POS_X as usize * TILE_NUMBERS;
    let own = tokens_at(table, tile);
    let readers = table[tile + 5] as usize;
    let ranges = table[tile + 6] as usize;
    let key_rows = rows_of(&own, kv_head, kv_heads);

    let mut left = Shared::<[Vector<f32, N>]>::new_slice(plan.tile_vectors());
    let mut right = Shared::<[Vector<f32, N>]>::new_slice(plan.tile_vectors());
    let mut weights = Shared::<[f32]>::new_slice(comptime!(TILE * SCORE_STRIDE));
    let mut scores = Array::<f32>::new(comptime!(ROWS * COLUMNS));
    let mut slopes = Array::<f32>::new(comptime!(ROWS * COLUMNS));
    let mut key_sums = Array::<Vector<f32, N>>::new(plan.sums());
    let mut value_sums = Array::<Vector<f32, N>>::new(plan.sums());
    #[unroll]
    for index in 0..plan.sums() {
        key_sums[index] = Vector::new(0.0f32);
        value_sums[index] = Vector::new(0.0f32);
    }
    for range in readers..readers + ranges {
        let readers_of_range = tokens_at(table, range_start(tiles, range));
        // Queries before the first key do not attend to any of these keys, nor do those whose window begins after
        // the last key.
        let mut first = 0usize.runtime();
        if own.position > readers_of_range.position {
            first = (own.position - readers_of_range.position) / TILE * TILE;
        }
        let mut end = readers_of_range.count;
        let last_key = own.position + own.count - 1;
        if window < u32::MAX {
            let past = usize::max(last_key + window as usize, readers_of_range.position);
            end = usize::min(end, past - readers_of_range.position);
        }
        for query in 0..group {
            let head = kv_head * group + query;
            let mut start = first;
            while start < end {
                let query_tokens = tile_of(&readers_of_range, start);
                let query_rows = rows_of(&query_tokens, head, heads);
                products::<F, N>(
                    keys,
                    &key_rows,
                    queries,
                    &query_rows,
                    &mut left,
                    &mut right,
                    &mut scores,
                    plan,
                );
                products::<F, N>(
                    values,
                    &key_rows,
                    upstream,
                    &query_rows,
                    &mut left,
                    &mut right,
                    &mut slopes,
                    plan,
                );
                #[unroll]
                for c in 0..COLUMNS {
                    let column = unit % ACROSS + comptime!(c * ACROSS);
                    let mut log_sum = 0.0f32.runtime();
                    let mut delta = 0.0f32.runtime();
                    if column < query_tokens.count {
                        let at = (query_tokens.first + column) * heads + head;
                        log_sum = log_sums[at];
                        delta = deltas[at];
                    }
                    #[unroll]
                    for r in 0..ROWS {
                        let row = unit / ACROSS + comptime!(r * DOWN);
                        let index = comptime!(r * COLUMNS + c);
                        let mut weight = 0.0f32.runtime();
                        if row < own.count
                            && column < query_tokens.count
                            && is_visible(
                                query_tokens.position + column,
                                own.position + row,
                                window,
                            )
                        {
                            weight = (scores[index] * scale - log_sum).exp();
                        }
                        weights[row * SCORE_STRIDE + column] = weight;
                        slopes[index] = weight * (slopes[index] - delta);
                    }
                }
                sync_cube();
                add_weighted::<F, N>(
                    &weights,
                    upstream,
                    &query_rows,
                    &mut right,
                    &mut value_sums,
                    plan,
                );
                #[unroll]
                for r in 0..ROWS {
                    let row = unit / ACROSS + comptime!(r * DOWN);
                    #[unroll]
                    for c in 0..COLUMNS {
                        let column = unit % ACROSS + comptime!(c * ACROSS);
                        weights[row * SCORE_STRIDE + column] = slopes[comptime!(r * COLUMNS + c)];
                    }
                }
                sync_cube();
                add_weighted::<F, N>(
                    &weights,
                    queries,
                    &query_rows,
                    &mut right,
                    &mut key_sums,
                    plan,
                );
                start += TILE;
            }
        }
    }
    let mut factors = Array::<f32>::new(ROWS);
    #[unroll]
    for r in 0..ROWS {
        factors[r] = scale;
    }
    store::<F, N>(&key_sums, &factors, key_gradient, &key_rows, plan);
    #[unroll]
    for r in 0..ROWS {
        factors[r] = 1.0f32;
    }
    store::<F, N>(&value_sums, &factors, value_gradient, &key_rows, plan);
}

/// The place of a range in [`Tables`].
#[cube]
fn range_start(tiles: u32, range: usize) -> usize {
    tiles as usize * TILE_NUMBERS + range * RANGE_NUMBERS
}
