//! Language models on burn: weights, tokenizers, chat templates, generation, log-probabilities.
//!
//! The crate knows how to run a backbone fast and exactly. It knows nothing of rewards,
//! environments or learning.
//!
//! Start reading at [`LanguageModel`]; then [`generate`], which samples responses, and
//! [`score_group`], which gives differentiable log-probabilities of the same tokens.

mod config;
mod error;
mod files;
mod generation;
mod kernels;
mod language_model;
mod network;
mod scoring;

pub use config::{Architecture, ModelConfig};
pub use error::ModelError;
pub use files::{
    Assets, ChatTemplate, Message, MessageRole, ModelFiles, TensorSpec, Tokenizer, Weights,
    convert, encode_conversation, save,
};
pub use generation::{
    Finish, Generation, GenerationConfig, PromptGroup, Sampling, StreamKey, generate,
};
pub use language_model::LanguageModel;
pub use scoring::{PackedGroup, score_group, sequence_logits, sequence_logprobs};
