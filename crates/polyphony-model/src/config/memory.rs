//! What a network of these sizes needs of memory, counted from its layers.

use super::ModelConfig;
use crate::{Activations, kernels::CHUNK_LOGITS};

/// Bytes of a 32-bit float.
const NUMBER: u64 = 4;

/// What attention keeps of every token's scores for all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttentionScores {
    /// Nothing, as on the processor, whose kernel computes them anew.
    Recomputed,
    /// Scores and weights, as on other devices.
    Kept,
}

impl ModelConfig {
    /// The keys and values that generation keeps of one token, each a number.
    pub fn cache_numbers(&self) -> u64 {
        (2 * self.layers * self.kv_heads * self.head_size) as u64
    }

    /// The bytes that a forward pass over one packed group of this many tokens keeps for the backward
    /// pass, with the logits that are made at once.
    pub fn activation_bytes(
        &self,
        tokens: usize,
        activations: Activations,
        scores: AttentionScores,
    ) -> u64 {
        let [d, inner] = [self.hidden_size, self.intermediate_size];
        let (queries, keys) = (self.heads * self.head_size, self.kv_heads * self.head_size);
        let pairs = match scores {
            AttentionScores::Recomputed => 0,
            AttentionScores::Kept => 2 * self.heads * tokens,
        };
        // Hidden states before and after each norm and sum; queries, rotated queries and what they
        // gathered; keys and values, before and after; gate, way up, and their product.
        let layer = 6 * d + 3 * queries + 4 * keys + 3 * inner + pairs;
        let kept = match activations {
            Activations::Keep => self.layers * layer,
            Activations::Recompute => self.layers * d + layer,
        };
        tokens as u64 * kept as u64 * NUMBER + head_chunk()
    }
}

/// Bytes of the logits that scoring holds at once, and of their gradient.
fn head_chunk() -> u64 {
    2 * NUMBER * CHUNK_LOGITS as u64
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::ModelFiles;

    fn tiny() -> ModelConfig {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/tiny-llama");
        ModelFiles::open(&path).unwrap().config
    }

    #[test]
    fn activations_grow_with_tokens_and_shrink_where_they_are_computed_again() {
        let config = tiny();
        let bytes = |tokens, activations, scores| {
            config.activation_bytes(tokens, activations, scores) - head_chunk()
        };
        let of = |activations, scores| bytes(100, activations, scores);
        let kept = of(Activations::Keep, AttentionScores::Recomputed);
        assert_eq!(
            bytes(200, Activations::Keep, AttentionScores::Recomputed),
            2 * kept
        );
        assert!(of(Activations::Recompute, AttentionScores::Recomputed) < kept);
        let pairs = 2 * 4 * config.layers * config.heads * 100 * 100;
        let with_scores = of(Activations::Keep, AttentionScores::Kept);
        assert_eq!(with_scores - kept, pairs as u64);
    }

    #[test]
    fn a_token_has_a_key_and_a_value_in_each_layer() {
        let config = ModelConfig {
            layers: 3,
            kv_heads: 2,
            head_size: 8,
            ..tiny()
        };
        assert_eq!(config.cache_numbers(), 96);
    }
}
