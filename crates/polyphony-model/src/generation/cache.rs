//! The key-value cache of generation.
//!
//! A prompt's keys and values are stored once and shared by all responses sampled from it. A prefix
//! that several prompts share is stored once for all of them. On the CPU in bfloat16, each prompt is
//! packed as a whole instead. Each response has a slot, which is allocated for the longest response
//! allowed; the slot of a finished response is never touched again. All rows are at the same position
//! of their response, since all start together.

use std::ops::Range;

use burn::tensor::{DType, Int, Tensor, TensorData, activation::softmax};
use half::bf16;
use rayon::prelude::*;

use crate::{
    LanguageModel, Precision,
    kernels::{
        Bf16Unit, HostTensor, KvSpan, Number, PackedContext, PackedKv, Packing, Values, contiguous,
        decode_attention, floats, host, packed_attention, values,
    },
    network::Attention,
};

/// The keys and values of packed prompts, one pair per layer, each `[K, P, S]`: `K` key and value
/// heads, `P` packed tokens, `S` head size.
#[derive(Debug, Default)]
pub(crate) struct PromptCache {
    pub(super) layers: Vec<(Tensor<3>, Tensor<3>)>,
}

/// A prompt in a cache.
#[derive(Clone, Debug)]
pub(crate) struct CachedPrompt {
    /// The index of its cache.
    pub(crate) cache: usize,
    /// The ranges of packed tokens that make it up, in order.
    pub(crate) path: Vec<Range<usize>>,
}

/// Causal attention over packed prompts that stores their keys and values.
#[derive(Debug)]
pub(crate) struct PrefillAttention {
    packing: Packing,
    pub(crate) cache: PromptCache,
}

impl PrefillAttention {
    pub(crate) fn new(packing: Packing) -> Self {
        Self {
            packing,
            cache: PromptCache::default(),
        }
    }
}

impl Attention for PrefillAttention {
    fn attend(
        &mut self,
        _layer: usize,
        window: Option<usize>,
        queries: Tensor<3>,
        keys: Tensor<3>,
        values: Tensor<3>,
    ) -> Tensor<3> {
        let attended =
            packed_attention(queries, keys.clone(), values.clone(), &self.packing, window);
        let by_head = |tensor: Tensor<3>| contiguous(tensor.swap_dims(0, 1));
        self.cache.layers.push((by_head(keys), by_head(values)));
        attended
    }
}

/// The responses' keys and values, and the prompts they continue.
#[derive(Debug)]
pub(crate) struct DecodeAttention {
    /// For each row the prompt that it continues; rows of one prompt are adjacent.
    prompt_of: Vec<usize>,
    /// For each row the slot with its keys and values, in rising order.
    slot_of: Vec<usize>,
    layers: Layers,
    /// Tokens already in the slots.
    filled: usize,
}

/// The keys and values of all layers.
#[derive(Debug)]
enum Layers {
    /// As tensors.
    Tensors {
        caches: Vec<PromptCache>,
        prompts: Vec<CachedPrompt>,
        /// One pair per layer, each `[C, K, N, S]`: `C` slots, `N` tokens of the longest response.
        slots: Vec<(Tensor<4>, Tensor<4>)>,
    },
    /// Packed for the CPU's products in bfloat16.
    Packed(Vec<PackedLayer>),
}

/// The keys and values of one layer.
#[derive(Debug)]
struct PackedLayer {
    /// For each prompt, its key heads. Prompts that no row continues have none.
    prompts: Vec<Vec<PackedKv>>,
    /// For each slot, its key heads.
    slots: Vec<Vec<PackedKv>>,
}

impl PackedLayer {
    /// The prompts of a layer, and empty slots for responses of up to `longest` tokens; `None` unless the cache is
    /// in host memory, in bfloat16.
    fn new(
        unit: Bf16Unit,
        caches: &[PromptCache],
        prompts: &[CachedPrompt],
        (layer, prompt_of, longest): (usize, &[usize], usize),
    ) -> Option<Self> {
        let mut packed: Vec<Vec<PackedKv>> = prompts.iter().map(|_| Vec::new()).collect();
        let mut sizes = (0, 0);
        for &index in prompt_of {
            if !packed[index].is_empty() {
                continue;
            }
            let CachedPrompt { cache, path } = &prompts[index];
            let (keys, cached_values) = &caches[*cache].layers[layer];
            let [kv_heads, _, size] = keys.dims();
            let (keys, cached_values) = (host(keys)?, host(cached_values)?);
            let (Values::Bf16(keys), Values::Bf16(cached_values)) =
                (values(&keys), values(&cached_values))
            else {
                return None;
            };
            packed[index] = (0..kv_heads)
                .map(|head| {
                    let start = head * (keys.len() / kv_heads);
                    let gather = |values: &[bf16]| {
                        let ranges = path.iter().flat_map(|range| {
                            &values[start + range.start * size..start + range.end * size]
                        });
                        ranges.copied().collect::<Vec<_>>()
                    };
                    PackedKv::of_prompt(unit, &gather(keys), &gather(cached_values), size)
                })
                .collect();
            sizes = (kv_heads, size);
        }
        let (kv_heads, size) = sizes;
        let slot = || (0..kv_heads).map(|_| PackedKv::with_capacity(unit, longest, size));
        Some(Self {
            prompts: packed,
            slots: prompt_of.iter().map(|_| slot().collect()).collect(),
        })
    }
}

impl DecodeAttention {
    pub(crate) fn new(
        caches: Vec<PromptCache>,
        prompts: Vec<CachedPrompt>,
        prompt_of: Vec<usize>,
        longest: usize,
        model: &LanguageModel,
    ) -> Self {
        let config = model.config();
        let packed = |unit| {
            let layers = (0..config.layers).into_par_iter();
            let layers = layers.map(|layer| {
                PackedLayer::new(unit, &caches, &prompts, (layer, &prompt_of, longest))
            });
            layers.collect::<Option<Vec<_>>>()
        };
        // On other devices the cache is not in host memory, so nothing is packed.
        let unit = Bf16Unit::detect().filter(|_| model.precision() == Precision::Bf16);
        let layers = match unit.and_then(packed) {
            Some(layers) => Layers::Packed(layers),
            None => {
                let shape = [prompt_of.len(), config.kv_heads, longest, config.head_size];
                let (device, dtype) = (model.device(), model.precision().dtype());
                let empty = || Tensor::zeros(shape, (&device, dtype));
                Layers::Tensors {
                    caches,
                    prompts,
                    slots: (0..config.layers).map(|_| (empty(), empty())).collect(),
                }
            }
        };
        Self {
            slot_of: (0..prompt_of.len()).collect(),
            prompt_of,
            layers,
            filled: 0,
        }
    }

    /// Keeps only these rows, in this order.
    pub(crate) fn retain(&mut self, rows: &[usize]) {
        self.prompt_of = rows.iter().map(|&row| self.prompt_of[row]).collect();
        self.slot_of = rows.iter().map(|&row| self.slot_of[row]).collect();
    }

    /// Moves on by one position, after a token of each row has been run through all layers.
    pub(crate) fn advance(&mut self) {
        self.filled += 1;
    }
}

impl PackedLayer {
    /// Adds a token to the slot of each row, and computes its attention. `rows` are the prompt and the slot of each
    /// row.
    fn attend(
        &mut self,
        rows: &[(usize, usize)],
        window: Option<usize>,
        tensors: [Tensor<3>; 3],
    ) -> Tensor<3> {
        let shape @ [_, heads, size] = tensors[0].dims();
        let kv_heads = tensors[1].dims()[1];
        let device = tensors[0].device();
        let [Some(queries), Some(keys), Some(new_values)] = tensors.each_ref().map(host) else {
            unreachable!("the cache is in host memory, and so are queries, keys and values")
        };
        let slices = [&queries, &keys, &new_values].map(|tensor| bf16::slice(values(tensor)));
        let [queries, keys, new_values] = slices;
        let width = kv_heads * size;
        let tokens = keys.chunks_exact(width).zip(new_values.chunks_exact(width));
        for ((_, slot), (keys, new_values)) in rows.iter().zip(tokens) {
            let heads = keys.chunks_exact(size).zip(new_values.chunks_exact(size));
            for (cached, (key, value)) in self.slots[*slot].iter_mut().zip(heads) {
                cached.push(key, value);
            }
        }
        let context = PackedContext {
            prompts: &self.prompts,
            slots: &self.slots,
            rows,
            window,
            heads,
            kv_heads,
            size,
        };
        let output = TensorData::new(context.attend(queries), shape);
        Tensor::from_data(output, (&device, DType::BF16))
    }
}

/// The prompts in use, each with the range of rows that continue it, given each row's prompt.
fn groups(prompt_of: &[usize]) -> Vec<(usize, Range<usize>)> {
    let mut groups: Vec<(usize, Range<usize>)> = Vec::new();
    for (row, &prompt) in prompt_of.iter().enumerate() {
        match groups.last_mut() {
            Some((last, range)) if *last == prompt => range.end = row + 1,
            _ => groups.push((prompt, row..row + 1)),
        }
    }
    groups
}

/// Gathers the tokens of a path: `[K, P, S]` to `[K, length, S]`.
fn gather_path(packed: &Tensor<3>, path: &[Range<usize>]) -> Tensor<3> {
    let part = |range: &Range<usize>| packed.clone().narrow(1, range.start, range.len());
    match path {
        [range] => part(range),
        ranges => Tensor::cat(ranges.iter().map(part).collect(), 1),
    }
}

/// Writes one position of the given slots. The tensor is moved out of `cache` first, so that nothing
/// shares it and it is changed in place. `token` is `[R, K, S]`, one row per slot.
fn write(cache: &mut Tensor<4>, slot_of: &[usize], position: usize, token: Tensor<3>) {
    let [_, heads, _, size] = cache.dims();
    let token = token.unsqueeze_dim::<4>(2);
    let mut slots = std::mem::replace(cache, Tensor::empty([0, 0, 0, 0], &token.device()));
    let mut row = 0;
    for adjacent in slot_of.chunk_by(|a, b| a + 1 == *b) {
        let (slot, count) = (adjacent[0], adjacent.len());
        let target = [
            slot..slot + count,
            0..heads,
            position..position + 1,
            0..size,
        ];
        slots = slots.slice_assign(target, token.clone().narrow(0, row, count));
        row += count;
    }
    *cache = slots;
}

/// The filled part of the given slots, `[R, K, filled, S]`.
fn filled_part(cache: &Tensor<4>, slot_of: &[usize], filled: usize) -> Tensor<4> {
    let part = cache.clone().narrow(2, 0, filled);
    if slot_of.len() == cache.dims()[0] {
        return part;
    }
    let ids: Vec<i64> = slot_of.iter().map(|&slot| slot as i64).collect();
    let ids = TensorData::new(ids, [slot_of.len()]);
    part.select(0, Tensor::<1, Int>::from_data(ids, &cache.device()))
}

impl Attention for DecodeAttention {
    fn attend(
        &mut self,
        layer: usize,
        window: Option<usize>,
        queries: Tensor<3>,
        keys: Tensor<3>,
        values: Tensor<3>,
    ) -> Tensor<3> {
        let [rows, heads, size] = queries.dims();
        let kv_heads = keys.dims()[1];
        let per_group = heads / kv_heads;
        let filled = self.filled + 1;
        let (caches, prompts, slots) = match &mut self.layers {
            Layers::Tensors {
                caches,
                prompts,
                slots,
            } => (caches, prompts, slots),
            Layers::Packed(layers) => {
                let rows: Vec<(usize, usize)> = self
                    .prompt_of
                    .iter()
                    .copied()
                    .zip(self.slot_of.iter().copied())
                    .collect();
                return layers[layer].attend(&rows, window, [queries, keys, values]);
            }
        };
        let (key_slots, value_slots) = &mut slots[layer];
        write(key_slots, &self.slot_of, self.filled, keys);
        write(value_slots, &self.slot_of, self.filled, values);
        if let Some(attended) = attend_on_host(
            &queries,
            &*key_slots,
            &*value_slots,
            (filled, window),
            (&self.prompt_of, &self.slot_of),
            |prompt| {
                let CachedPrompt { cache, path } = &prompts[prompt];
                (&caches[*cache].layers[layer], path.as_slice())
            },
        ) {
            return attended;
        }
        let groups = groups(&self.prompt_of);
        let response_keys = filled_part(key_slots, &self.slot_of, filled);
        let response_values = filled_part(value_slots, &self.slot_of, filled);
        let queries = (queries / (size as f64).sqrt()).reshape([rows, kv_heads, per_group, size]);
        let response_scores = queries.clone().matmul(response_keys.swap_dims(2, 3));
        let mut outputs = Vec::with_capacity(groups.len());
        for (prompt, range) in groups {
            let CachedPrompt { cache, path } = &prompts[prompt];
            let (keys, values) = &caches[*cache].layers[layer];
            let [prompt_keys, prompt_values] =
                [keys, values].map(|packed| gather_path(packed, path));
            let (n, length) = (range.len(), prompt_keys.dims()[1]);
            // One product for all rows of the prompt, with queries `[K, n · per_group, S]`.
            let folded = queries
                .clone()
                .narrow(0, range.start, n)
                .swap_dims(0, 1)
                .reshape([kv_heads, n * per_group, size]);
            let prompt_scores = folded
                .matmul(prompt_keys.swap_dims(1, 2))
                .reshape([kv_heads, n, per_group, length])
                .swap_dims(0, 1);
            let scores = response_scores.clone().narrow(0, range.start, n);
            let mut scores = Tensor::cat(vec![prompt_scores, scores], 3);
            let before = window.map_or(0, |window| (length + filled).saturating_sub(window));
            if before > 0 {
                let before = [0..n, 0..kv_heads, 0..per_group, 0..before];
                scores = scores.slice_fill(before, f32::NEG_INFINITY);
            }
            let weights = softmax(scores, 3);
            let from_prompt = weights
                .clone()
                .narrow(3, 0, length)
                .swap_dims(0, 1)
                .reshape([kv_heads, n * per_group, length])
                .matmul(prompt_values)
                .reshape([kv_heads, n, per_group, size])
                .swap_dims(0, 1);
            let from_response = weights
                .narrow(3, length, filled)
                .matmul(response_values.clone().narrow(0, range.start, n));
            outputs.push(from_prompt + from_response);
        }
        Tensor::cat(outputs, 0).reshape([rows, heads, size])
    }
}

/// The packed keys and values that contain a prompt, and the prompt's path through them.
type HostPrompt<'a> = (HostTensor, HostTensor, &'a [Range<usize>]);

/// The attention of [`DecodeAttention`] without intermediate tensors; `None` unless all tensors are in host
/// memory.
fn attend_on_host<'a>(
    queries: &Tensor<3>,
    key_slots: &Tensor<4>,
    value_slots: &Tensor<4>,
    (filled, window): (usize, Option<usize>),
    (prompt_of, slot_of): (&[usize], &[usize]),
    prompt: impl Fn(usize) -> (&'a (Tensor<3>, Tensor<3>), &'a [Range<usize>]),
) -> Option<Tensor<3>> {
    let [rows, heads, size] = queries.dims();
    let [_, kv_heads, longest, _] = key_slots.dims();
    let host_queries = host(queries)?;
    let (key_slots, value_slots) = (host(key_slots)?, host(value_slots)?);
    let mut prompts: Vec<Option<HostPrompt<'_>>> = Vec::new();
    for &index in prompt_of {
        if prompts.len() <= index {
            prompts.resize_with(index + 1, || None);
        }
        if prompts[index].is_none() {
            let ((keys, values), path) = prompt(index);
            prompts[index] = Some((host(keys)?, host(values)?, path));
        }
    }
    let context = |row: usize, head: usize| {
        let Some((keys, values, path)) = &prompts[prompt_of[row]] else {
            unreachable!("every row's prompt is there")
        };
        let packed = floats(keys).len() / (kv_heads * size);
        let span = |keys, values, tokens: Range<usize>| {
            let range = tokens.start * size..tokens.end * size;
            KvSpan {
                keys: &floats(keys)[range.clone()],
                values: &floats(values)[range],
            }
        };
        let length: usize = path.iter().map(ExactSizeIterator::len).sum();
        let mut before = window.map_or(0, |window| (length + filled).saturating_sub(window));
        // Leaves out the tokens before the window.
        let mut in_window = |range: Range<usize>| {
            let skipped = before.min(range.len());
            before -= skipped;
            range.start + skipped..range.end
        };
        let mut spans = Vec::with_capacity(path.len() + 1);
        for range in path.iter() {
            let range = in_window(range.clone());
            let start = head * packed;
            spans.push(span(keys, values, start + range.start..start + range.end));
        }
        let range = in_window(0..filled);
        let start = (slot_of[row] * kv_heads + head) * longest;
        let response = start + range.start..start + range.end;
        spans.push(span(&key_slots, &value_slots, response));
        spans
    };
    let output = decode_attention(floats(&host_queries), heads, kv_heads, size, context);
    Some(Tensor::from_data(
        TensorData::new(output, [rows, heads, size]),
        &queries.device(),
    ))
}
