//! The attention of one decoding pass: normalization of queries and keys, rotation, writing of the cache, scores,
//! softmax and the weighted sum, in one launch.
//!
//! A cube computes one row and key head; all queries of the head's group share each key that is read. Tokens are taken
//! in blocks, with a running maximum (Milakov and Gimelshein, 2018, arXiv 1805.02867), so that responses may have any
//! length. Where a row's keys are and how many it has is read on the device: see [`RowState`].

use cubecl::{ir::ElemType, prelude::*};

use super::{
    CubeTensor, UNITS, cube_max, cube_sum,
    few_rows::{vector_size, vector_sum},
    float_type,
    rms_norm::Norm,
    units,
};

/// What the kernels know of a row, as four numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RowState {
    /// The index of its prompt.
    pub(crate) prompt: u32,
    /// The length of its prompt.
    pub(crate) prompt_length: u32,
    /// The slot with its own keys and values.
    pub(crate) slot: u32,
    /// Tokens in the slot. The token of this pass comes after them.
    pub(crate) filled: u32,
}

impl RowState {
    pub(crate) const NUMBERS: usize = 4;

    pub(crate) fn numbers(self) -> [u32; Self::NUMBERS] {
        [self.prompt, self.prompt_length, self.slot, self.filled]
    }
}

/// The attention of a layer for the next token of each row.
///
/// # Shapes
/// `R` rows, `H` query heads, `K` key and value heads, `S` head size, `P` packed prompt tokens, `C` slots of `N`
/// tokens:
pub(crate) struct Attend<'a> {
    /// Queries, keys and values side by side, `[R, (H + 2 K) S]`.
    pub(crate) projected: &'a CubeTensor,
    /// Weights of the normalization of queries and keys, `[S]` each.
    pub(crate) norms: Option<&'a [Norm; 2]>,
    /// Cosines and sines of every position, `[positions, S / 2]` each.
    pub(crate) angles: &'a [CubeTensor; 2],
    /// Keys and values of the packed prompts, `[K, P, S]`.
    pub(crate) prompts: &'a [CubeTensor; 2],
    /// For each prompt the packed place of each of its tokens, `[prompts, longest prompt]`.
    pub(crate) places: &'a CubeTensor,
    /// Keys and values of the responses, `[C, K, N, S]`.
    pub(crate) slots: &'a [CubeTensor; 2],
    /// `[R, 4]`
    pub(crate) state: &'a CubeTensor,
    /// `[R, H S]`
    pub(crate) output: &'a CubeTensor,
    pub(crate) rows: usize,
    /// What scores are multiplied by.
    pub(crate) scale: f32,
    pub(crate) window: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Plan {
    /// Queries of a key head.
    group: usize,
    kv_heads: usize,
    size: usize,
    normed: bool,
    units: usize,
    /// Numbers of an output head that a unit computes.
    own_numbers: usize,
    /// Units that share these numbers, each with tokens of its own.
    shares: usize,
}

impl Attend<'_> {
    pub(crate) fn launch(self) {
        let [_, kv_heads, longest, size] = self.slots[0].meta.shape().dims();
        let [_, packed, _] = self.prompts[0].meta.shape().dims();
        let [_, longest_prompt] = self.places.meta.shape().dims();
        let [_, width] = self.output.meta.shape().dims();
        let plan = Plan {
            group: width / size / kv_heads,
            kv_heads,
            size,
            normed: self.norms.is_some(),
            units: UNITS,
            own_numbers: size.div_ceil(UNITS),
            shares: (UNITS / size).max(1),
        };
        let (query_norm, key_norm, epsilon, offset) = match self.norms {
            Some([query, key]) => (&query.weight, &key.weight, query.epsilon, query.offset),
            None => (self.projected, self.projected, 0.0, 0.0),
        };
        let argument = |tensor: &CubeTensor| tensor.clone().into_buffer_arg();
        attend::launch(
            &self.projected.client,
            CubeCount::new_2d(kv_heads as u32, self.rows as u32),
            units(),
            vector_size(size),
            argument(self.projected),
            argument(query_norm),
            argument(key_norm),
            argument(&self.angles[0]),
            argument(&self.angles[1]),
            argument(&self.prompts[0]),
            argument(&self.prompts[1]),
            argument(self.places),
            argument(&self.slots[0]),
            argument(&self.slots[1]),
            argument(self.state),
            argument(self.output),
            packed as u32,
            longest as u32,
            longest_prompt as u32,
            self.window.unwrap_or(u32::MAX as usize) as u32,
            self.scale,
            epsilon,
            offset,
            plan,
            float_type(&self.slots[0]),
        );
    }
}

#[cube(launch)]
fn attend<C: Float, N: Size>(
    projected: &[f32],
    query_norm: &[f32],
    key_norm: &[f32],
    cos: &[f32],
    sin: &[f32],
    prompt_keys: &[Vector<C, N>],
    prompt_values: &[C],
    places: &[u32],
    slot_keys: &mut [Vector<C, N>],
    slot_values: &mut [C],
    state: &[u32],
    output: &mut [f32],
    packed: u32,
    longest: u32,
    longest_prompt: u32,
    window: u32,
    scale: f32,
    epsilon: f32,
    offset: f32,
    #[comptime] plan: Plan,
    #[define(C)] _dtype: ElemType,
) {
    let unit = UNIT_POS as usize;
    let head = CUBE_POS_X as usize;
    let row = CUBE_POS_Y as usize;
    let prompt = state[row * 4] as usize;
    let prompt_length = state[row * 4 + 1] as usize;
    let slot = state[row * 4 + 2] as usize;
    let filled = state[row * 4 + 3] as usize;
    let vector = slot_keys.vector_size();
    let vectors = comptime!(plan.size).runtime() / vector;

    let mut parts = Shared::<[f32]>::new_slice(plan.units);
    // Queries, and the new key after them.
    let mut heads = Shared::<[f32]>::new_slice(comptime!((plan.group + 1) * plan.size));
    let row_start = row * comptime!((plan.group + 2) * plan.kv_heads * plan.size);
    let query_start = row_start + head * comptime!(plan.group * plan.size);
    let key_start =
        row_start + comptime!(plan.group * plan.kv_heads * plan.size) + head * plan.size;
    let value_start = key_start + comptime!(plan.kv_heads * plan.size);
    let mut i = unit;
    while i < comptime!(plan.group * plan.size) {
        heads[i] = projected[query_start + i];
        i += plan.units;
    }
    i = unit;
    while i < plan.size {
        heads[comptime!(plan.group * plan.size) + i] = projected[key_start + i];
        i += plan.units;
    }
    sync_cube();
    if plan.normed {
        for index in 0..comptime!(plan.group + 1) {
            let start = index * plan.size;
            let mut squares = 0.0f32;
            let mut i = unit;
            while i < plan.size {
                squares += heads[start + i] * heads[start + i];
                i += plan.units;
            }
            let sum = cube_sum(squares, &mut parts, plan.units);
            let factor = 1.0f32 / (sum / comptime!(plan.size as f32) + epsilon).sqrt();
            i = unit;
            while i < plan.size {
                let mut weight = query_norm[i];
                if index == plan.group {
                    weight = key_norm[i];
                }
                heads[start + i] *= factor * (offset + weight);
                i += plan.units;
            }
        }
        sync_cube();
    }
    // Rotation: coordinate `i` together with `i + size / 2`.
    let half = comptime!(plan.size / 2);
    let position = prompt_length + filled;
    i = unit;
    while i < comptime!((plan.group + 1) * plan.size / 2) {
        let first = i / half * plan.size + i % half;
        let angle = position * half + i % half;
        let (a, b) = (heads[first], heads[first + half]);
        let (c, s) = (cos[angle], sin[angle]);
        let mut factor = scale;
        if i >= comptime!(plan.group * plan.size / 2) {
            factor = 1.0f32;
        }
        heads[first] = (a * c - b * s) * factor;
        heads[first + half] = (b * c + a * s) * factor;
        i += plan.units;
    }
    sync_cube();
    let slot_start = (slot * plan.kv_heads + head) * longest as usize;
    let new = (slot_start + filled) * plan.size;
    i = unit;
    while i < plan.size {
        slot_values[new + i] = C::cast_from(projected[value_start + i]);
        i += plan.units;
    }
    i = unit;
    while i < vectors {
        let mut key = RuntimeCell::<Vector<C, N>>::new(Vector::new(C::new(0.0)));
        #[unroll]
        for part in 0..vector {
            let at = comptime!(plan.group * plan.size).runtime() + i * vector + part;
            key.insert(part, C::cast_from(heads[at]));
        }
        slot_keys[new / vector + i] = key.consume();
        i += plan.units;
    }

    let tokens = position + 1;
    let mut start = 0usize.runtime();
    if tokens > window as usize {
        start = tokens - window as usize;
    }
    let mut scores = Shared::<[f32]>::new_slice(comptime!(plan.group * plan.units));
    // For each query the largest score so far and the sum of weights, relative to it.
    let mut maxima = Array::<f32>::new(plan.group);
    let mut totals = Array::<f32>::new(plan.group);
    let mut sums = Array::<f32>::new(comptime!(plan.group * plan.own_numbers));
    #[unroll]
    for query in 0..plan.group {
        maxima[query] = f32::new(-3.0e38);
        totals[query] = 0.0f32;
    }
    #[unroll]
    for index in 0..comptime!(plan.group * plan.own_numbers) {
        sums[index] = 0.0f32;
    }
    let share = unit / plan.size;
    let number = unit % plan.size;
    while start < tokens {
        let token = start + unit;
        #[unroll]
        for query in 0..plan.group {
            scores[comptime!(query * plan.units) + unit] = f32::new(-3.0e38);
        }
        if token < tokens {
            let mut products = Array::<Vector<f32, N>>::new(plan.group);
            #[unroll]
            for query in 0..plan.group {
                products[query] = Vector::new(0.0f32);
            }
            for i in 0..vectors {
                let key = if token < prompt_length {
                    let place = places[prompt * longest_prompt as usize + token] as usize;
                    Vector::<f32, N>::cast_from(
                        prompt_keys[(head * packed as usize + place) * vectors + i],
                    )
                } else if token < position {
                    let at = slot_start + (token - prompt_length);
                    Vector::<f32, N>::cast_from(slot_keys[at * vectors + i])
                } else {
                    // This pass's own key may not be visible in the slot yet. It is rounded as it is there.
                    let at = comptime!(plan.group * plan.size).runtime() + i * vector;
                    let key = read_vector::<N>(&heads, at);
                    Vector::<f32, N>::cast_from(Vector::<C, N>::cast_from(key))
                };
                #[unroll]
                for query in 0..plan.group {
                    let at = comptime!(query * plan.size).runtime() + i * vector;
                    products[query] += key * read_vector::<N>(&heads, at);
                }
            }
            #[unroll]
            for query in 0..plan.group {
                scores[comptime!(query * plan.units) + unit] = vector_sum(products[query]);
            }
        }
        sync_cube();
        #[unroll]
        for query in 0..plan.group {
            let score = scores[comptime!(query * plan.units) + unit];
            let largest = f32::max(maxima[query], cube_max(score, &mut parts, plan.units));
            let shrink = (maxima[query] - largest).exp();
            let mut weight = 0.0f32.runtime();
            if token < tokens {
                weight = (score - largest).exp();
            }
            scores[comptime!(query * plan.units) + unit] = weight;
            totals[query] = totals[query] * shrink + cube_sum(weight, &mut parts, plan.units);
            maxima[query] = largest;
            #[unroll]
            for index in 0..plan.own_numbers {
                sums[comptime!(query * plan.own_numbers + index)] *= shrink;
            }
        }
        sync_cube();
        let mut count = tokens - start;
        if count > plan.units {
            count = comptime!(plan.units).runtime();
        }
        if share < plan.shares {
            let mut place = share;
            while place < count {
                let token = start + place;
                #[unroll]
                for index in 0..plan.own_numbers {
                    let own = number + comptime!(index * plan.units);
                    if own < plan.size {
                        let value = if token < prompt_length {
                            let place = places[prompt * longest_prompt as usize + token] as usize;
                            f32::cast_from(
                                prompt_values[(head * packed as usize + place) * plan.size + own],
                            )
                        } else if token < position {
                            let at = slot_start + (token - prompt_length);
                            f32::cast_from(slot_values[at * plan.size + own])
                        } else {
                            f32::cast_from(C::cast_from(projected[value_start + own]))
                        };
                        #[unroll]
                        for query in 0..plan.group {
                            sums[comptime!(query * plan.own_numbers + index)] +=
                                value * scores[comptime!(query * plan.units) + place];
                        }
                    }
                }
                place += plan.shares;
            }
        }
        sync_cube();
        start += plan.units;
    }
    // The shares of a number are added up through shared memory.
    #[unroll]
    for query in 0..plan.group {
        #[unroll]
        for index in 0..plan.own_numbers {
            scores[unit] = sums[comptime!(query * plan.own_numbers + index)];
            sync_cube();
            let own = unit + comptime!(index * plan.units);
            if unit < plan.size && own < plan.size {
                let mut sum = 0.0f32.runtime();
                for share in 0..plan.shares {
                    sum += scores[share * plan.size + unit];
                }
                let to = (row * plan.kv_heads + head) * comptime!(plan.group * plan.size);
                output[to + comptime!(query * plan.size) + own] = sum / totals[query];
            }
            sync_cube();
        }
    }
}

/// Consecutive numbers of shared memory.
#[cube]
fn read_vector<N: Size>(numbers: &[f32], start: usize) -> Vector<f32, N> {
    let mut vector = RuntimeCell::<Vector<f32, N>>::new(Vector::new(0.0f32));
    let size = vector.read().vector_size();
    #[unroll]
    for part in 0..size {
        vector.insert(part, numbers[start + part]);
    }
    vector.consume()
}
