//! Keys and values that generation keeps, allocated for the longest response.
//!
//! A prompt's keys and values are stored once and shared by all responses sampled from it, and what
//! several prompts begin with is stored once for all of them. Each
//! response has its own slot in memory that holds the longest response allowed; the slot of a
//! finished one is never touched again. All rows are at the same position of their response, since
//! all start together.

use std::ops::Range;

use burn::tensor::{Int, Tensor, TensorData, activation::softmax};

use crate::{
    LanguageModel,
    kernels::{
        self, HostTensor, Packing, Stretch, contiguous, decode_attention, host, packed_attention,
    },
    network::Attention,
};

/// The keys and values of packed prompts, one pair a layer, each `[K, P, S]`: `K` key and value
/// heads, `P` packed tokens, `S` head size.
#[derive(Debug, Default)]
pub(crate) struct PromptCache {
    layers: Vec<(Tensor<3>, Tensor<3>)>,
}

/// A prompt in a cache.
#[derive(Clone, Debug)]
pub(crate) struct CachedPrompt {
    /// The index of its cache.
    pub(crate) cache: usize,
    /// The ranges of packed tokens that make it up, in order.
    pub(crate) path: Vec<Range<usize>>,
}

/// Causal attention over packed prompts that keeps their keys and values.
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
        queries: Tensor<3>,
        keys: Tensor<3>,
        values: Tensor<3>,
    ) -> Tensor<3> {
        let seen = packed_attention(queries, keys.clone(), values.clone(), &self.packing);
        let by_head = |tensor: Tensor<3>| contiguous(tensor.swap_dims(0, 1));
        self.cache.layers.push((by_head(keys), by_head(values)));
        seen
    }
}

/// The responses' keys and values, and the prompts they continue.
#[derive(Debug)]
pub(crate) struct DecodeAttention<'a> {
    caches: &'a [PromptCache],
    prompts: &'a [CachedPrompt],
    /// For each row the prompt that it continues; rows of one prompt are neighbours.
    prompt_of: Vec<usize>,
    /// For each row where its keys and values are, in rising order.
    slot_of: Vec<usize>,
    /// One pair a layer, each `[C, K, N, S]`: `C` slots, `N` tokens of the longest response.
    slots: Vec<(Tensor<4>, Tensor<4>)>,
    /// Tokens already in the slots.
    filled: usize,
}

impl<'a> DecodeAttention<'a> {
    pub(crate) fn new(
        caches: &'a [PromptCache],
        prompts: &'a [CachedPrompt],
        prompt_of: Vec<usize>,
        longest: usize,
        model: &LanguageModel,
    ) -> Self {
        let config = model.config();
        let shape = [prompt_of.len(), config.kv_heads, longest, config.head_size];
        let (device, dtype) = (model.device(), model.dtype());
        let empty = || Tensor::zeros(shape, (&device, dtype));
        Self {
            caches,
            prompts,
            slot_of: (0..prompt_of.len()).collect(),
            prompt_of,
            slots: (0..config.layers).map(|_| (empty(), empty())).collect(),
            filled: 0,
        }
    }

    /// Keeps only the rows at `kept`, in that order.
    pub(crate) fn retain(&mut self, kept: &[usize]) {
        self.prompt_of = kept.iter().map(|&row| self.prompt_of[row]).collect();
        self.slot_of = kept.iter().map(|&row| self.slot_of[row]).collect();
    }

    /// One more token has been run through all layers.
    pub(crate) fn advance(&mut self) {
        self.filled += 1;
    }
}

/// Ranges of rows that continue the same prompt, given each row's prompt.
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

/// The tokens of a path, one after the other: `[K, P, S]` to `[K, length, S]`.
fn along(packed: &Tensor<3>, path: &[Range<usize>]) -> Tensor<3> {
    let part = |range: &Range<usize>| packed.clone().narrow(1, range.start, range.len());
    match path {
        [range] => part(range),
        ranges => Tensor::cat(ranges.iter().map(part).collect(), 1),
    }
}

/// Writes one position of the given slots in place: the tensor is taken out so that nothing shares
/// it. `token` is `[R, K, S]`, one row a slot.
fn write(cache: &mut Tensor<4>, slot_of: &[usize], position: usize, token: Tensor<3>) {
    let [_, heads, _, size] = cache.dims();
    let token = token.unsqueeze_dim::<4>(2);
    let mut taken = std::mem::replace(cache, Tensor::empty([0, 0, 0, 0], &token.device()));
    let mut row = 0;
    for neighbours in slot_of.chunk_by(|a, b| a + 1 == *b) {
        let (slot, count) = (neighbours[0], neighbours.len());
        let place = [
            slot..slot + count,
            0..heads,
            position..position + 1,
            0..size,
        ];
        taken = taken.slice_assign(place, token.clone().narrow(0, row, count));
        row += count;
    }
    *cache = taken;
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

impl Attention for DecodeAttention<'_> {
    fn attend(
        &mut self,
        layer: usize,
        queries: Tensor<3>,
        keys: Tensor<3>,
        values: Tensor<3>,
    ) -> Tensor<3> {
        let [rows, heads, size] = queries.dims();
        let kv_heads = keys.dims()[1];
        let per_group = heads / kv_heads;
        let filled = self.filled + 1;
        let (own_keys, own_values) = &mut self.slots[layer];
        write(own_keys, &self.slot_of, self.filled, keys);
        write(own_values, &self.slot_of, self.filled, values);
        if let Some(seen) = on_host(
            &queries,
            &*own_keys,
            &*own_values,
            filled,
            (&self.prompt_of, &self.slot_of),
            |prompt| {
                let CachedPrompt { cache, path } = &self.prompts[prompt];
                (&self.caches[*cache].layers[layer], path.as_slice())
            },
        ) {
            return seen;
        }
        let groups = groups(&self.prompt_of);
        let own_keys = filled_part(own_keys, &self.slot_of, filled);
        let own_values = filled_part(own_values, &self.slot_of, filled);
        let queries = (queries / (size as f64).sqrt()).reshape([rows, kv_heads, per_group, size]);
        let own_scores = queries.clone().matmul(own_keys.swap_dims(2, 3));
        let mut seen = Vec::with_capacity(groups.len());
        for (prompt, range) in groups {
            let CachedPrompt { cache, path } = &self.prompts[prompt];
            let (keys, values) = &self.caches[*cache].layers[layer];
            let [prompt_keys, prompt_values] = [keys, values].map(|packed| along(packed, path));
            let (n, length) = (range.len(), prompt_keys.dims()[1]);
            // All rows of the prompt meet its keys in one product: `[K, n · per_group, S]`.
            let folded = queries
                .clone()
                .narrow(0, range.start, n)
                .swap_dims(0, 1)
                .reshape([kv_heads, n * per_group, size]);
            let prompt_scores = folded
                .matmul(prompt_keys.swap_dims(1, 2))
                .reshape([kv_heads, n, per_group, length])
                .swap_dims(0, 1);
            let own = own_scores.clone().narrow(0, range.start, n);
            let weights = softmax(Tensor::cat(vec![prompt_scores, own], 3), 3);
            let from_prompt = weights
                .clone()
                .narrow(3, 0, length)
                .swap_dims(0, 1)
                .reshape([kv_heads, n * per_group, length])
                .matmul(prompt_values)
                .reshape([kv_heads, n, per_group, size])
                .swap_dims(0, 1);
            let from_own = weights
                .narrow(3, length, filled)
                .matmul(own_values.clone().narrow(0, range.start, n));
            seen.push(from_prompt + from_own);
        }
        Tensor::cat(seen, 0).reshape([rows, heads, size])
    }
}

/// The packed keys and values that a prompt is among, and its path through them.
type HostPrompt<'a> = (HostTensor, HostTensor, &'a [Range<usize>]);

/// The same without intermediate tensors, where everything is in host memory.
fn on_host<'a>(
    queries: &Tensor<3>,
    own_keys: &Tensor<4>,
    own_values: &Tensor<4>,
    filled: usize,
    (prompt_of, slot_of): (&[usize], &[usize]),
    prompt: impl Fn(usize) -> (&'a (Tensor<3>, Tensor<3>), &'a [Range<usize>]),
) -> Option<Tensor<3>> {
    let [rows, heads, size] = queries.dims();
    let [_, kv_heads, longest, _] = own_keys.dims();
    let on_host = host(queries)?;
    let (own_keys, own_values) = (host(own_keys)?, host(own_values)?);
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
    let seen = |row: usize, head: usize| {
        let Some((keys, values, path)) = &prompts[prompt_of[row]] else {
            unreachable!("every row's prompt is there")
        };
        let packed = kernels::values(keys).len() / (kv_heads * size);
        let stretch = |keys, values, tokens: Range<usize>| {
            let range = tokens.start * size..tokens.end * size;
            Stretch {
                keys: &kernels::values(keys)[range.clone()],
                values: &kernels::values(values)[range],
            }
        };
        let of_prompt = path.iter().map(|range| {
            let from = head * packed;
            stretch(keys, values, from + range.start..from + range.end)
        });
        let from = (slot_of[row] * kv_heads + head) * longest;
        let own = stretch(&own_keys, &own_values, from..from + filled);
        of_prompt.chain([own]).collect()
    };
    let output = decode_attention(kernels::values(&on_host), heads, kv_heads, size, seen);
    Some(Tensor::from_data(
        TensorData::new(output, [rows, heads, size]),
        &queries.device(),
    ))
}
