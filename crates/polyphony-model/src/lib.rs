//! Language models that a program samples from and trains in one process: weights, tokenizers, chat
//! templates, generation and log-probabilities, on [burn](https://burn.dev).
//!
//! Sampling and training run the same network on the same weights, so that both see the same policy.
//! The crate must not know rewards, environments, episodes or command lines.
//!
//! Start reading at [`LanguageModel`]; then [`generate`], which samples responses, and
//! [`score_group`], which computes differentiable log-probabilities of the same tokens.
//!
//! ```
//! use burn::tensor::Device;
//! use polyphony_model::{
//!     GenerationConfig, LanguageModel, ModelError, ModelFiles, PackedGroup, PromptGroup, Sampling,
//!     StreamKey, generate, score_group,
//! };
//!
//! # fn main() -> Result<(), ModelError> {
//! # let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/tiny-llama");
//! let files = ModelFiles::open(directory.as_ref())?;
//! // Flex is burn's CPU backend.
//! let model = LanguageModel::load(&files, &Device::flex())?;
//!
//! // Four responses to one prompt. A key selects the random numbers of one response. Prompts with the
//! // same `prefix_group` share the cache of their common prefix.
//! let keys = (0..4).map(|response| StreamKey([response; 32])).collect();
//! let group = PromptGroup { prompt: &[5, 6, 7], keys, prefix_group: 0 };
//! let config = GenerationConfig {
//!     sampling: Sampling::default(),
//!     max_new_tokens: 8,
//!     stop_tokens: files.stop_tokens,
//! };
//! let responses = &generate(&model, &[group], &config, &mut |_| {})?[0];
//!
//! // The log-probabilities of their tokens, differentiable in the model's weights.
//! let tokens: Vec<&[u32]> = responses.iter().map(|response| &response.tokens[..]).collect();
//! let temperature = 1.0;
//! let packed = PackedGroup::new(&[5, 6, 7], tokens)?;
//! let logprobs = score_group(&model.trainable(), &packed, temperature)?;
//! let sampled: usize = responses.iter().map(|response| response.tokens.len()).sum();
//! assert_eq!(logprobs.dims(), [sampled]);
//! # Ok(())
//! # }
//! ```

mod architectures;
mod config;
mod device_work;
mod error;
mod files;
mod generation;
mod gradients;
mod kernels;
mod language_model;
mod lora;
mod network;
mod precision;
mod scoring;
mod transfer;

pub use architectures::Architecture;
pub use config::{ModelConfig, Rope, RopeScaling, WeightSize};
pub use device_work::DeviceWork;
pub use error::ModelError;
pub use files::{
    Adapter, ChatTemplate, Message, MessageRole, ModelAssets, ModelFiles, TensorSpec, TensorValues,
    Tokenizer, Weights, convert, encode_continuation, encode_conversation, is_catching_panic, save,
    save_tensors,
};
pub use generation::{
    Finish, Generation, GenerationConfig, PromptGroup, Sampling, StreamKey, generate,
};
pub use gradients::WeightGradients;
pub use kernels::vectorized;
pub use language_model::LanguageModel;
pub use lora::{LoraConfig, Projection};
pub use precision::Precision;
pub use scoring::{
    Activations, PackedGroup, ScoredGroup, last_hidden_state, score_group, sequence_logits,
    sequence_logprobs,
};
