//! The parts of a model on disk, whatever the format of its files.

use super::adapter::Adapter;
use super::assets::ModelAssets;
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
    /// The adapters for the weights, if a directory of adapters was opened.
    pub adapter: Option<Adapter>,
    /// The tokenizer; without one the model works only on token ids.
    pub tokenizer: Option<Tokenizer>,
    /// The chat template; without one prompts are plain text.
    pub template: Option<ChatTemplate>,
    /// The ids that end a response, sorted: every `eos_token_id` of the configuration files, or if there
    /// is none, the tokenizer's `eos_token`.
    pub stop_tokens: Vec<u32>,
    /// The files that [`save`](crate::save) writes beside the weights.
    pub assets: ModelAssets,
}
