//! The optional parts of a decoder's layers.

use super::Rope;
use crate::kernels::Activation;

/// What the layers of a decoder are made of. The default is Llama's.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Parts {
    /// Whether the projections to queries, keys and values have biases.
    pub(crate) attention_bias: bool,
    /// Whether queries and keys are normalized head by head before they are rotated.
    pub(crate) query_key_norm: bool,
    /// Whether the outputs of attention and feed-forward are normalized too, not only their inputs.
    pub(crate) norms_after: bool,
    /// A normalization multiplies by its weight plus this number.
    pub(crate) norm_offset: f32,
    /// The function that gates the feed-forward layer.
    pub(crate) activation: Activation,
    /// The factor that embeddings are multiplied by.
    pub(crate) embedding_scale: f64,
    /// The number that attention scores are divided by, itself a root; `None` for the root of the head size.
    pub(crate) query_divisor: Option<f64>,
    /// The layers that attend only to the last tokens, if there are any.
    pub(crate) window: Option<Window>,
    /// The sizes of a mixture of experts instead of one feed-forward layer.
    pub(crate) experts: Option<ExpertSizes>,
}

/// Attention to the last tokens only.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Window {
    /// The number of tokens, the current one included.
    pub(crate) tokens: usize,
    /// Whether each layer has the window.
    pub(crate) layers: Vec<bool>,
    /// The rotary embedding of these layers.
    pub(crate) rope: Rope,
}

/// The sizes of a mixture of experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ExpertSizes {
    /// The number of experts.
    pub(crate) count: usize,
    /// Experts per token.
    pub(crate) chosen: usize,
    /// Width of an expert's feed-forward layer.
    pub(crate) intermediate_size: usize,
    /// Whether the factors of a token's experts are divided by their sum.
    pub(crate) normalized: bool,
}

impl Default for Parts {
    fn default() -> Self {
        Self {
            attention_bias: false,
            query_key_norm: false,
            norms_after: false,
            norm_offset: 0.0,
            activation: Activation::Silu,
            embedding_scale: 1.0,
            query_divisor: None,
            window: None,
            experts: None,
        }
    }
}

impl Parts {
    /// The number of last tokens that a layer attends to; `None` for all tokens.
    pub(crate) fn window_of(&self, layer: usize) -> Option<usize> {
        let window = self.window.as_ref()?;
        window.layers.get(layer)?.then_some(window.tokens)
    }
}
