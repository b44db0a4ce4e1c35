//! Sampling responses.
//!
//! Each prompt is run once, however many responses are sampled from it. Prompts with the same
//! [`prefix_group`](PromptGroup::prefix_group) are run together, and a prefix that they share is run only
//! once. Then all responses are decoded together, each as one row of the batch, one token per pass. A
//! finished row leaves the batch.

mod cache;
#[cfg(feature = "cube")]
mod device;
mod draw;
mod prefix_tree;
mod sampling;

use std::collections::BTreeMap;

use burn::tensor::{Device, Tensor};

pub use sampling::{Sampling, StreamKey};

use self::{
    cache::{CachedPrompt, DecodeAttention, PrefillAttention, PromptCache},
    draw::{SampledToken, sample_token},
    prefix_tree::PrefixTree,
};
use crate::{
    LanguageModel, ModelError,
    kernels::{self, ProjectionOutput},
    transfer::{to_host, token_tensor},
};

/// A prompt and the responses to sample from it.
#[derive(Clone, Debug)]
pub struct PromptGroup<'a> {
    /// The prompt's token ids.
    pub prompt: &'a [u32],
    /// The stream of random numbers of each response. One response is sampled per key.
    pub keys: Vec<StreamKey>,
    /// An id that the caller chooses. Prompts with the same id are run in one pass, which computes a common
    /// prefix once. This changes rounding, so a response may depend slightly on the other prompts with its
    /// id, but never on prompts with another id. With one id per task and role, a response does not depend on
    /// the other tasks in the batch.
    pub prefix_group: u64,
}

/// What ends a response, and how its tokens are drawn.
#[derive(Clone, Debug)]
pub struct GenerationConfig {
    /// How tokens are drawn.
    pub sampling: Sampling,
    /// The maximum length of a response, in tokens.
    pub max_new_tokens: usize,
    /// Tokens that end a response. They are part of it.
    pub stop_tokens: Vec<u32>,
}

/// Why a response ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// It ended with a stop token.
    Stop,
    /// It reached the length limit.
    Length,
}

/// One sampled response.
#[derive(Clone, Debug, PartialEq)]
pub struct Generation {
    /// The sampled ids, the stop token included.
    pub tokens: Vec<u32>,
    /// The natural log-probability of each token when it was drawn, under the temperature-scaled,
    /// untruncated distribution (temperature 1 if sampling is greedy).
    pub logprobs: Vec<f32>,
    /// Why it ended.
    pub finish: Finish,
}

impl Generation {
    /// The tokens without the stop token.
    pub fn text_tokens(&self) -> &[u32] {
        match (self.finish, self.tokens.split_last()) {
            (Finish::Stop, Some((_, text_tokens))) => text_tokens,
            _ => &self.tokens,
        }
    }
}

/// Samples responses for all groups in one batch; the result has one list per group.
///
/// `on_pass` is called after each pass with the number of tokens that the pass added.
///
/// # Errors
/// If a setting is out of range, a prompt is empty or contains a token outside the vocabulary, a
/// prompt and the longest response together are longer than the model's context, or the model's
/// logits are not finite. On a GPU also if the device fails.
pub fn generate(
    model: &LanguageModel,
    groups: &[PromptGroup<'_>],
    config: &GenerationConfig,
    on_pass: &mut dyn FnMut(usize),
) -> Result<Vec<Vec<Generation>>, ModelError> {
    config.sampling.validate()?;
    if config.max_new_tokens == 0 {
        return Err(ModelError::NoNewTokens);
    }
    groups
        .iter()
        .try_for_each(|group| check(model, group, config))?;
    let prompts = Prompts::run(model, groups);
    let mut rows = Vec::new();
    for (index, (group, logits)) in groups.iter().zip(&prompts.logits).enumerate() {
        rows.extend(group.keys.iter().map(|&key| {
            let mut row = Row::new(index, key, group);
            row.push(row.draw(logits, config), config);
            row
        }));
    }
    on_pass(rows.len());
    decode(model, prompts, &mut rows, config, on_pass)?;
    let mut logprobs = rows.iter().flat_map(|row| &row.logprobs);
    if logprobs.any(|logprob| !logprob.is_finite()) {
        return Err(ModelError::LogitsNotFinite);
    }
    let mut responses: Vec<Vec<Generation>> = groups.iter().map(|_| Vec::new()).collect();
    for row in rows {
        responses[row.group].push(row.into_generation());
    }
    Ok(responses)
}

fn check(
    model: &LanguageModel,
    group: &PromptGroup<'_>,
    config: &GenerationConfig,
) -> Result<(), ModelError> {
    if group.prompt.is_empty() {
        return Err(ModelError::EmptyPrompt);
    }
    let max_positions = model.config().max_positions;
    let (prompt, new) = (group.prompt.len(), config.max_new_tokens);
    if prompt.saturating_add(new) > max_positions {
        return Err(ModelError::PromptTooLong {
            prompt,
            new,
            max_positions,
        });
    }
    model.check_ids(group.prompt)
}

/// All prompts after their forward pass.
struct Prompts {
    caches: Vec<PromptCache>,
    /// One per group.
    cached: Vec<CachedPrompt>,
    /// For each group the logits after its prompt.
    logits: Vec<Vec<f32>>,
}

/// On devices other than the CPU, attention over packed prompts computes the scores of all pairs of tokens.
/// If a prefix group has more tokens than this, each of its prompts is therefore run alone.
const MAX_PACKED_TOKENS: usize = 2048;

/// Rows of logits that are computed at once.
const LOGIT_ROWS: usize = 16;

/// The indices of the groups whose prompts are run together.
fn prefix_groups(model: &LanguageModel, groups: &[PromptGroup<'_>]) -> Vec<Vec<usize>> {
    let mut prefix_groups: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
    for (index, group) in groups.iter().enumerate() {
        prefix_groups
            .entry(group.prefix_group)
            .or_default()
            .push(index);
    }
    let on_host = model.device() == Device::flex();
    let tokens = |prefix_group: &[usize]| {
        prefix_group
            .iter()
            .map(|&i| groups[i].prompt.len())
            .sum::<usize>()
    };
    let mut batches = Vec::new();
    for prefix_group in prefix_groups.into_values() {
        match on_host || tokens(&prefix_group) <= MAX_PACKED_TOKENS {
            true => batches.push(prefix_group),
            false => batches.extend(prefix_group.into_iter().map(|index| vec![index])),
        }
    }
    batches
}

impl Prompts {
    /// Runs the prompts of each prefix group together.
    fn run(model: &LanguageModel, groups: &[PromptGroup<'_>]) -> Self {
        let prefix_groups = prefix_groups(model, groups);
        let mut caches = Vec::with_capacity(prefix_groups.len());
        let mut cached = vec![None; groups.len()];
        let mut logits = vec![Vec::new(); groups.len()];
        for prefix_group in prefix_groups {
            let prompts: Vec<&[u32]> = prefix_group
                .iter()
                .map(|&index| groups[index].prompt)
                .collect();
            let tree = PrefixTree::new(&prompts);
            let mut attention = PrefillAttention::new(tree.packing());
            let hidden = model.hidden(&tree.tokens, &tree.positions, &mut attention);
            let cache = caches.len();
            caches.push(attention.cache);
            for (&index, path) in prefix_group.iter().zip(tree.paths()) {
                cached[index] = Some(CachedPrompt { cache, path });
            }
            for chunk in prefix_group.chunks(LOGIT_ROWS) {
                let last = |&index: &usize| {
                    let path = cached[index].as_ref().map(|prompt| &prompt.path);
                    let end = path.and_then(|path| path.last()).map_or(0, |last| last.end);
                    end as u32 - 1
                };
                let ends: Vec<u32> = chunk.iter().map(last).collect();
                let ends = token_tensor(&ends, &hidden.device());
                let rows = to_host(self::logits(model, hidden.clone().select(0, ends)));
                let rows = rows.chunks_exact(model.config().vocab_size);
                for (&index, row) in chunk.iter().zip(rows) {
                    logits[index] = row.to_vec();
                }
            }
        }
        Self {
            caches,
            cached: cached.into_iter().flatten().collect(),
            logits,
        }
    }
}

/// # Shapes
/// - hidden `[R, D]`, output `[R, V]`
fn logits(model: &LanguageModel, hidden: Tensor<2>) -> Tensor<2> {
    kernels::project(hidden, &model.head(), None, ProjectionOutput::Floats)
}

/// A response that is being sampled.
#[derive(Debug)]
struct Row {
    group: usize,
    key: StreamKey,
    prompt_length: usize,
    tokens: Vec<u32>,
    logprobs: Vec<f32>,
    finish: Option<Finish>,
}

impl Row {
    fn new(group_index: usize, key: StreamKey, group: &PromptGroup<'_>) -> Self {
        Self {
            group: group_index,
            key,
            prompt_length: group.prompt.len(),
            tokens: Vec::new(),
            logprobs: Vec::new(),
            finish: None,
        }
    }

    fn draw(&self, logits: &[f32], config: &GenerationConfig) -> SampledToken {
        sample_token(
            logits,
            &config.sampling,
            self.key.uniform(self.tokens.len()),
        )
    }

    fn push(&mut self, sampled: SampledToken, config: &GenerationConfig) {
        self.tokens.push(sampled.token);
        self.logprobs.push(sampled.logprob);
        if config.stop_tokens.contains(&sampled.token) {
            self.finish = Some(Finish::Stop);
        } else if self.tokens.len() == config.max_new_tokens {
            self.finish = Some(Finish::Length);
        }
    }

    /// The position of the last token.
    fn position(&self) -> usize {
        self.prompt_length + self.tokens.len() - 1
    }

    fn into_generation(self) -> Generation {
        let finish = self.finish.unwrap_or(Finish::Length);
        Generation {
            tokens: self.tokens,
            logprobs: self.logprobs,
            finish,
        }
    }
}

/// Decodes until every row is finished.
fn decode(
    model: &LanguageModel,
    prompts: Prompts,
    rows: &mut [Row],
    config: &GenerationConfig,
    on_pass: &mut dyn FnMut(usize),
) -> Result<(), ModelError> {
    let vocab_size = model.config().vocab_size;
    let on_cpu = model.device() == Device::flex();
    let mut active: Vec<&mut Row> = rows.iter_mut().filter(|row| row.finish.is_none()).collect();
    if active.is_empty() {
        return Ok(());
    }
    #[cfg(feature = "cube")]
    if let Some(decoder) = device::DeviceDecoder::new(model, &prompts, &active, config) {
        return decoder.run(active, config, on_pass);
    }
    let prompt_of = active.iter().map(|row| row.group).collect();
    // The network is never run on the last token of a response, so its keys and values need no slot.
    let longest = config.max_new_tokens - 1;
    let mut attention =
        DecodeAttention::new(prompts.caches, prompts.cached, prompt_of, longest, model);
    while !active.is_empty() {
        let last: Vec<u32> = active
            .iter()
            .filter_map(|row| row.tokens.last().copied())
            .collect();
        let positions: Vec<usize> = active.iter().map(|row| row.position()).collect();
        let mut pass = || {
            let hidden = model.hidden(&last, &positions, &mut attention);
            attention.advance();
            let logits = to_host(logits(model, hidden));
            kernels::for_each_chunk(&mut active, 1, |index, rows| {
                let logits = &logits[index * vocab_size..(index + 1) * vocab_size];
                let token = rows[0].draw(logits, config);
                rows[0].push(token, config);
            });
        };
        // `on_pass` may do anything, so threads do not wait awake for it.
        match on_cpu {
            true => kernels::with_team(pass),
            false => pass(),
        }
        on_pass(active.len());
        let unfinished: Vec<usize> = (0..active.len())
            .filter(|&row| active[row].finish.is_none())
            .collect();
        active.retain(|row| row.finish.is_none());
        attention.retain(&unfinished);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
