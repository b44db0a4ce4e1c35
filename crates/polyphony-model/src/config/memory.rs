//! What a network of these sizes needs of memory, counted from its layers.
//!
//! The sizes come from a stranger's file, so nothing here overflows: a number that would be too large
//! is the largest one, of which no machine has the memory.

use std::num::Saturating;

use super::{Architecture, ModelConfig};
use crate::lora::{LoraConfig, Projection};
use crate::{Activations, kernels::CHUNK_LOGITS};

/// Bytes of a 32-bit float.
const NUMBER: u64 = 4;

/// The largest number of weights or bytes. What callers make of it, such as the bytes of gradients and
/// moments of a team, does not overflow either.
const MOST: u64 = 1 << 48;

/// The largest number of numbers that are kept of a token, which callers multiply by tokens.
const MOST_OF_TOKEN: u64 = 1 << 36;

/// What attention keeps of every token's scores for all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttentionScores {
    /// Nothing, as on the processor, whose kernel computes them anew.
    Recomputed,
    /// Scores and weights, as on other devices.
    Kept,
}

/// A size to be multiplied and added.
type Count = Saturating<u64>;

fn count(size: usize) -> Count {
    Saturating(size as u64)
}

impl ModelConfig {
    /// The number of weights, each a number.
    pub fn weights(&self) -> u64 {
        let d = count(self.hidden_size);
        let (queries, keys) = (self.queries(), self.keys());
        let attention = match self.architecture {
            Architecture::Llama => count(0),
            Architecture::Qwen2 => queries + count(2) * keys,
            Architecture::Qwen3 => count(2) * count(self.head_size),
        };
        let feed_forward = count(3) * d * count(self.intermediate_size);
        let layer = count(2) * d * (queries + keys) + attention + feed_forward + count(2) * d;
        let tables = count(if self.tied_head { 1 } else { 2 });
        let all = tables * count(self.vocab_size) * d + count(self.layers) * layer + d;
        all.0.min(MOST)
    }

    /// The number of weights of the adapters that `lora` adds.
    pub fn adapter_weights(&self, lora: &LoraConfig) -> u64 {
        let d = count(self.hidden_size);
        let sides = lora.targets.iter().map(|target| match target {
            Projection::Query | Projection::Output => d + self.queries(),
            Projection::Key | Projection::Value => d + self.keys(),
            Projection::Gate | Projection::Up | Projection::Down => {
                d + count(self.intermediate_size)
            }
        });
        let sides = sides.fold(count(0), |sum, sides| sum + sides);
        (count(self.layers) * count(lora.rank) * sides).0.min(MOST)
    }

    /// The keys and values that generation keeps of one token, each a number.
    pub fn cache_numbers(&self) -> u64 {
        let all = count(2) * count(self.layers) * self.keys();
        all.0.min(MOST_OF_TOKEN)
    }

    /// The bytes that a forward pass over one packed group of this many tokens keeps for the backward
    /// pass, with the logits that are made at once.
    pub fn activation_bytes(
        &self,
        tokens: usize,
        activations: Activations,
        scores: AttentionScores,
    ) -> u64 {
        let [d, inner, layers, tokens] = [
            self.hidden_size,
            self.intermediate_size,
            self.layers,
            tokens,
        ]
        .map(count);
        let pairs = match scores {
            AttentionScores::Recomputed => count(0),
            AttentionScores::Kept => count(2) * count(self.heads) * tokens,
        };
        // Hidden states before and after each norm and sum; queries, rotated queries and what they
        // gathered; keys and values, before and after; gate, way up, and their product.
        let layer = count(6) * d
            + count(3) * self.queries()
            + count(4) * self.keys()
            + count(3) * inner
            + pairs;
        let kept = match activations {
            Activations::Keep => layers * layer,
            Activations::Recompute => layers * d + layer,
        };
        let all = tokens * kept * Saturating(NUMBER) + Saturating(head_chunk());
        all.0.min(MOST)
    }

    /// The width of all queries of a token in one layer.
    fn queries(&self) -> Count {
        count(self.heads) * count(self.head_size)
    }

    /// The width of its keys, and of its values.
    fn keys(&self) -> Count {
        count(self.kv_heads) * count(self.head_size)
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
    fn sizes_of_any_file_overflow_nothing() {
        let largest = i32::MAX as usize;
        let lora = LoraConfig {
            rank: usize::MAX,
            ..LoraConfig::default()
        };
        for architecture in Architecture::ALL {
            let config = ModelConfig {
                architecture,
                vocab_size: largest,
                hidden_size: largest,
                intermediate_size: largest,
                layers: 4096,
                heads: largest,
                kv_heads: largest,
                head_size: largest - 1,
                ..tiny()
            };
            assert_eq!(config.weights(), MOST);
            assert_eq!(config.adapter_weights(&lora), MOST);
            assert_eq!(config.cache_numbers(), MOST_OF_TOKEN);
            for activations in [Activations::Keep, Activations::Recompute] {
                for scores in [AttentionScores::Recomputed, AttentionScores::Kept] {
                    let bytes = config.activation_bytes(usize::MAX, activations, scores);
                    assert_eq!(bytes, MOST);
                }
            }
        }
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
