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
mod prompts;
mod response;
mod sampling;

use burn::tensor::Device;

pub use response::{Finish, Generation, GenerationConfig, PromptGroup};
pub use sampling::{Sampling, StreamKey};

use self::{
    cache::DecodeAttention,
    prompts::{Prompts, logits},
    response::Row,
};
use crate::{LanguageModel, ModelError, kernels, transfer::to_host};

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
    if let Some(weights) = model.decode_weights() {
        let decoder = device::DeviceDecoder::new(model, weights, prompts, &active, config);
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
