//! What a model on disk consists of, whatever the form of its files.

use super::adapter::Adapter;
use super::assets::Assets;
use super::template::ChatTemplate;
use super::tokenizer::Tokenizer;
use super::weights::Weights;
use crate::config::ModelConfig;

/// A model on disk, opened but not yet loaded.
#[derive(Debug)]
pub struct ModelFiles {
    /// Sizes and constants of the network.
    pub config: ModelConfig,
    /// The tensors, read on demand.
    pub weights: Weights,
    /// Adapters on top of the weights, where the model was opened as a directory of adapters.
    pub adapter: Option<Adapter>,
    /// The tokenizer; without one the model works on token ids alone.
    pub tokenizer: Option<Tokenizer>,
    /// The chat template; without one prompts are plain text.
    pub template: Option<ChatTemplate>,
    /// The ids that end a response, sorted: every `eos_token_id` of the configuration files, or the
    /// tokenizer's `eos_token` where these name none.
    pub stop_tokens: Vec<u32>,
    /// What [`save`](crate::save) writes beside the weights.
    pub assets: Assets,
}
