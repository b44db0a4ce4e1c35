//! What is asked of generation, and the responses.

use super::{
    draw::{SampledToken, sample_token},
    sampling::{Sampling, StreamKey},
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

/// A response that is being sampled.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) group: usize,
    pub(super) key: StreamKey,
    pub(super) prompt_length: usize,
    pub(super) tokens: Vec<u32>,
    pub(super) logprobs: Vec<f32>,
    pub(super) finish: Option<Finish>,
}

impl Row {
    pub(super) fn new(group_index: usize, key: StreamKey, group: &PromptGroup<'_>) -> Self {
        Self {
            group: group_index,
            key,
            prompt_length: group.prompt.len(),
            tokens: Vec::new(),
            logprobs: Vec::new(),
            finish: None,
        }
    }

    pub(super) fn draw(&self, logits: &[f32], config: &GenerationConfig) -> SampledToken {
        sample_token(
            logits,
            &config.sampling,
            self.key.uniform(self.tokens.len()),
        )
    }

    pub(super) fn push(&mut self, sampled: SampledToken, config: &GenerationConfig) {
        self.tokens.push(sampled.token);
        self.logprobs.push(sampled.logprob);
        if config.stop_tokens.contains(&sampled.token) {
            self.finish = Some(Finish::Stop);
        } else if self.tokens.len() == config.max_new_tokens {
            self.finish = Some(Finish::Length);
        }
    }

    /// Forgets all tokens but the first.
    #[cfg(feature = "cube")]
    pub(super) fn keep_first(&mut self) {
        self.tokens.truncate(1);
        self.logprobs.truncate(1);
        self.finish = None;
    }

    /// The position of the last token.
    pub(super) fn position(&self) -> usize {
        self.prompt_length + self.tokens.len() - 1
    }

    pub(super) fn into_generation(self) -> Generation {
        let finish = self.finish.unwrap_or(Finish::Length);
        Generation {
            tokens: self.tokens,
            logprobs: self.logprobs,
            finish,
        }
    }
}
