//! The optional parts of a decoder's layers.

/// What the layers of a decoder are made of. The default is Llama's.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Parts {
    /// Whether the projections to queries, keys and values have biases.
    pub(crate) attention_bias: bool,
    /// Whether queries and keys are normalized head by head before they are rotated.
    pub(crate) query_key_norm: bool,
}
