//! How much memory a network needs, computed from its sizes.
//!
//! The sizes come from an untrusted file, so the arithmetic saturates instead of overflowing. A number
//! that would be too large becomes the maximum, which is more memory than any machine has.

use std::{num::Saturating, ops::Add as _};

use super::ModelConfig;
use crate::lora::LoraConfig;
use crate::{Activations, Precision, kernels::CHUNK_LOGITS};

/// Bytes of a 32-bit float.
const F32_BYTES: u64 = 4;

/// The largest count of weights or bytes. It leaves room for what callers compute from it, such as the
/// bytes of a team's gradients and moments.
const MAX_COUNT: u64 = 1 << 48;

/// The largest count of cached numbers per token, which callers multiply by tokens.
const MAX_PER_TOKEN: u64 = 1 << 36;

/// What attention stores for the backward pass of the scores of all pairs of tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttentionScores {
    /// Nothing, as on the CPU, whose kernel recomputes the scores in the backward pass.
    Recomputed,
    /// The scores and the weights computed from them, as on other devices.
    Stored,
}

/// A count whose arithmetic saturates.
type Count = Saturating<u64>;

fn count(size: usize) -> Count {
    Saturating(size as u64)
}

/// The number of scalars in a tensor of this shape.
fn elements(shape: &[usize]) -> Count {
    shape
        .iter()
        .fold(count(1), |product, &size| product * count(size))
}

/// Weights that have the same size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WeightSize {
    /// The number of scalars of each.
    pub scalars: u64,
    /// How many such weights there are.
    pub weights: u64,
}

impl WeightSize {
    fn new(scalars: Count, weights: Count) -> Self {
        Self {
            scalars: scalars.0.min(MAX_COUNT),
            weights: weights.0.min(MAX_COUNT),
        }
    }
}

/// The number of scalars of all weights together.
fn total(sizes: &[WeightSize]) -> u64 {
    let scalars = sizes
        .iter()
        .map(|size| Saturating(size.scalars) * Saturating(size.weights));
    scalars.fold(count(0), Count::add).0.min(MAX_COUNT)
}

impl ModelConfig {
    /// The sizes of all weights.
    pub fn weight_sizes(&self) -> Vec<WeightSize> {
        let d = count(self.hidden_size);
        let tables = count(if self.tied_head { 1 } else { 2 });
        let mut sizes = vec![
            WeightSize::new(count(self.vocab_size) * d, tables),
            // The last norm.
            WeightSize::new(d, count(1)),
        ];
        sizes.extend(self.layer_tensors().iter().map(|tensor| {
            let weights = count(self.layers) * count(tensor.experts.unwrap_or(1));
            WeightSize::new(elements(&tensor.shape), weights)
        }));
        sizes
    }

    /// The sizes of the weights of the adapters that `lora` adds.
    pub fn adapter_weight_sizes(&self, lora: &LoraConfig) -> Vec<WeightSize> {
        let targets = lora.targets.iter();
        let tensors = targets.flat_map(|target| self.projection_tensors(*target));
        let sizes = tensors.flat_map(|tensor| {
            let weights = count(self.layers) * count(tensor.experts.unwrap_or(1));
            // One factor is as wide as the output, the other as wide as the input.
            let factor = move |width| WeightSize::new(count(lora.rank) * count(width), weights);
            tensor.shape.into_iter().map(factor)
        });
        sizes.collect()
    }

    /// The number of scalar weights.
    pub fn weight_count(&self) -> u64 {
        total(&self.weight_sizes())
    }

    /// The number of scalar weights of the adapters that `lora` adds.
    pub fn adapter_weight_count(&self, lora: &LoraConfig) -> u64 {
        total(&self.adapter_weight_sizes(lora))
    }

    /// The size of one token in the key-value cache, in numbers.
    pub fn cached_numbers_per_token(&self) -> u64 {
        let all = count(2) * count(self.layers) * count(self.key_width());
        all.0.min(MAX_PER_TOKEN)
    }

    /// The number of weights that products read: all but an embedding table that is not the head, and a few small
    /// ones.
    pub fn product_weight_count(&self) -> u64 {
        let embeddings = match self.tied_head {
            true => count(0),
            false => count(self.vocab_size) * count(self.hidden_size),
        };
        self.weight_count().saturating_sub(embeddings.0)
    }

    /// The bytes that a forward pass over one packed group of this many tokens stores for the backward
    /// pass, plus the chunk of logits that is in memory at once.
    pub fn activation_bytes(
        &self,
        tokens: usize,
        activations: Activations,
        scores: AttentionScores,
        precision: Precision,
    ) -> u64 {
        // With experts, each token runs through some of them, and its input is gathered for each.
        let (inner, gathered) = match self.parts.experts {
            None => (count(self.intermediate_size), count(0)),
            Some(sizes) => (
                count(sizes.chosen) * count(sizes.intermediate_size),
                count(3) * count(sizes.chosen) * count(self.hidden_size),
            ),
        };
        let [d, layers, tokens] = [self.hidden_size, self.layers, tokens].map(count);
        let pairs = match scores {
            AttentionScores::Recomputed => count(0),
            AttentionScores::Stored => count(2) * count(self.heads) * tokens,
        };
        // Hidden states before each norm and after each sum, which are 32-bit floats in every precision.
        let norms_after = count(if self.parts.norms_after { 2 } else { 0 });
        let hidden = (count(4) + norms_after) * d * Saturating(F32_BYTES);
        // Normalized hidden states; queries, rotated queries and attention outputs; keys and values, before and
        // after rotation; gate, up projection and their product.
        let narrow = count(2) * d
            + count(3) * count(self.query_width())
            + count(4) * count(self.key_width())
            + count(3) * inner
            + gathered
            + pairs;
        let layer = hidden + narrow * Saturating(precision.bytes());
        let per_token = match activations {
            Activations::Keep => layers * layer,
            Activations::Recompute => layers * d * Saturating(F32_BYTES) + layer,
        };
        let all = tokens * per_token + Saturating(head_chunk());
        all.0.min(MAX_COUNT)
    }
}

/// Bytes of the chunk of logits that scoring holds at once, and of its gradient.
fn head_chunk() -> u64 {
    2 * F32_BYTES * CHUNK_LOGITS as u64
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{
        ModelFiles,
        config::{ExpertSizes, Parts},
    };

    fn tiny() -> ModelConfig {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/tiny-llama");
        ModelFiles::open(&path).unwrap().config
    }

    #[test]
    fn activations_grow_with_tokens_and_shrink_if_recomputed() {
        let config = tiny();
        let bytes = |tokens, activations, scores| {
            config.activation_bytes(tokens, activations, scores, Precision::F32) - head_chunk()
        };
        let bytes_of_100 = |activations, scores| bytes(100, activations, scores);
        let without_scores = bytes_of_100(Activations::Keep, AttentionScores::Recomputed);
        assert_eq!(
            bytes(200, Activations::Keep, AttentionScores::Recomputed),
            2 * without_scores
        );
        assert!(bytes_of_100(Activations::Recompute, AttentionScores::Recomputed) < without_scores);
        let pairs = 2 * 4 * config.layers * config.heads * 100 * 100;
        let with_scores = bytes_of_100(Activations::Keep, AttentionScores::Stored);
        assert_eq!(with_scores - without_scores, pairs as u64);
    }

    #[test]
    fn experts_and_norms_after_are_counted() {
        let bytes = |parts| {
            let config = ModelConfig { parts, ..tiny() };
            let scores = AttentionScores::Recomputed;
            config.activation_bytes(10, Activations::Keep, scores, Precision::F32)
        };
        let (config, plain) = (tiny(), bytes(Parts::default()));
        let norms_after = Parts {
            norms_after: true,
            ..Parts::default()
        };
        let floats = |count: usize| 4 * 10 * (config.layers * count) as u64;
        assert_eq!(bytes(norms_after) - plain, floats(2 * config.hidden_size));
        let experts = Parts {
            experts: Some(ExpertSizes {
                count: 8,
                chosen: 2,
                intermediate_size: config.intermediate_size,
                normalized: true,
            }),
            ..Parts::default()
        };
        let added = 3 * config.intermediate_size + 6 * config.hidden_size;
        assert_eq!(bytes(experts) - plain, floats(added));
    }

    #[test]
    fn the_largest_sizes_do_not_overflow() {
        let largest = i32::MAX as usize;
        let lora = LoraConfig {
            rank: usize::MAX,
            ..LoraConfig::default()
        };
        let experts = ExpertSizes {
            count: largest,
            chosen: largest,
            intermediate_size: largest,
            normalized: true,
        };
        let all_parts = Parts {
            attention_bias: true,
            query_key_norm: true,
            norms_after: true,
            ..Parts::default()
        };
        let with_experts = Parts {
            experts: Some(experts),
            ..all_parts.clone()
        };
        for parts in [Parts::default(), all_parts, with_experts] {
            let config = ModelConfig {
                parts,
                vocab_size: largest,
                hidden_size: largest,
                intermediate_size: largest,
                layers: 4096,
                heads: largest,
                kv_heads: largest,
                head_size: largest - 1,
                ..tiny()
            };
            assert_eq!(config.weight_count(), MAX_COUNT);
            assert_eq!(config.adapter_weight_count(&lora), MAX_COUNT);
            assert_eq!(config.cached_numbers_per_token(), MAX_PER_TOKEN);
            for activations in [Activations::Keep, Activations::Recompute] {
                for scores in [AttentionScores::Recomputed, AttentionScores::Stored] {
                    for precision in [Precision::F32, Precision::Bf16] {
                        let bytes =
                            config.activation_bytes(usize::MAX, activations, scores, precision);
                        assert_eq!(bytes, MAX_COUNT);
                    }
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
        assert_eq!(config.cached_numbers_per_token(), 96);
    }
}
