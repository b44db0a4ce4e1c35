//! How much memory a network needs, computed from its sizes.
//!
//! The sizes come from an untrusted file, so the arithmetic saturates instead of overflowing. A number
//! that would be too large becomes the maximum, which is more memory than any machine has.

use std::{num::Saturating, ops::Add as _};

use super::{ModelConfig, tensors::LayerTensor};
use crate::lora::{LoraConfig, Projection};
use crate::{Activations, Precision, kernels::CHUNK_LOGITS};

/// Bytes of a 32-bit float.
const F32_BYTES: u64 = 4;

/// The largest count of weights or bytes. It leaves room for what callers compute from it, such as the
/// bytes of a team's gradients and moments.
const MAX_COUNT: u64 = 1 << 48;

/// The largest count of cached numbers per token, which callers multiply by tokens.
const MAX_PER_TOKEN: u64 = 1 << 36;

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

    /// The bytes of the copies of weights from which a GPU decodes: of matrices that are joined, that adapters are
    /// merged into, or that are rounded. All others are read where they are.
    pub fn decoding_copy_bytes(&self, lora: Option<&LoraConfig>, precision: Precision) -> u64 {
        let has_adapter = |projections: &[Projection]| {
            let targets = lora.map_or(&[][..], |lora| &lora.targets);
            targets.iter().any(|target| projections.contains(target))
        };
        // The bytes of each number of the copy; 0 if there is no copy. Copies with an adapter are not rounded.
        let width = |joined: &[Projection], is_copied| match (has_adapter(joined), is_copied) {
            (true, _) => F32_BYTES,
            (false, true) => precision.bytes(),
            (false, false) => 0,
        };
        let is_rounded = precision != Precision::F32;
        let of_tensor = |tensor: &LayerTensor| {
            let width = match tensor.projection {
                None => 0,
                Some(Projection::Query | Projection::Key | Projection::Value) => width(
                    &[Projection::Query, Projection::Key, Projection::Value],
                    true,
                ),
                Some(Projection::Gate | Projection::Up) => {
                    width(&[Projection::Gate, Projection::Up], true)
                }
                // Those of experts are joined, too.
                Some(other) => width(&[other], is_rounded || tensor.experts.is_some()),
            };
            let scalars = elements(&tensor.shape) * count(tensor.experts.unwrap_or(1));
            scalars * Saturating(width)
        };
        let tensors = self.layer_tensors();
        let of_layer = tensors.iter().map(of_tensor).fold(count(0), Count::add);
        let head = match is_rounded {
            true => elements(&[self.vocab_size, self.hidden_size]) * Saturating(precision.bytes()),
            false => count(0),
        };
        (count(self.layers) * of_layer + head).0.min(MAX_COUNT)
    }

    /// The bytes that a forward pass over one packed group of this many tokens stores for the backward
    /// pass, plus the chunk of logits that is in memory at once.
    pub fn activation_bytes(
        &self,
        tokens: usize,
        activations: Activations,
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
        // The input of each norm, in 32-bit floats in every precision, and for each query head the logarithm of a sum.
        let norms_after = count(if self.parts.norms_after { 2 } else { 0 });
        let floats = (count(2) + norms_after) * d + count(self.heads);
        // Outputs of norms, rotated queries, rotated keys, values, outputs of attention, gate, up and their product.
        let narrow = count(2) * d
            + count(2) * count(self.query_width())
            + count(2) * count(self.key_width())
            + count(3) * inner
            + gathered
            // Queries and keys before their norms.
            + match self.parts.query_key_norm {
                true => count(self.query_width()) + count(self.key_width()),
                false => count(0),
            };
        let layer = floats * Saturating(F32_BYTES) + narrow * Saturating(precision.bytes());
        // What one layer needs besides: the forward pass holds intermediate results, the backward pass gradients.
        let per_token = match activations {
            Activations::Keep => (layers + count(1)) * layer,
            Activations::Recompute => layers * d * Saturating(F32_BYTES) + count(2) * layer,
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
        let bytes = |tokens, activations| {
            config.activation_bytes(tokens, activations, Precision::F32) - head_chunk()
        };
        let kept = bytes(100, Activations::Keep);
        assert_eq!(bytes(200, Activations::Keep), 2 * kept);
        assert!(bytes(100, Activations::Recompute) < kept);
    }

    #[test]
    fn experts_and_norms_after_are_counted() {
        let bytes = |parts| {
            let config = ModelConfig { parts, ..tiny() };
            config.activation_bytes(10, Activations::Keep, Precision::F32)
        };
        let (config, plain) = (tiny(), bytes(Parts::default()));
        let norms_after = Parts {
            norms_after: true,
            ..Parts::default()
        };
        // One layer more is counted for what a layer needs while it runs.
        let floats = |count: usize| 4 * 10 * ((config.layers + 1) * count) as u64;
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
    fn copies_for_decoding_are_those_that_are_not_read_in_place() {
        let config = tiny();
        let (d, keys, inner) = (
            config.hidden_size,
            config.key_width(),
            config.intermediate_size,
        );
        let joined = d * (config.query_width() + 2 * keys + 2 * inner);
        let [output, down] = [d * config.query_width(), d * inner];
        let of_layers = |numbers: usize| (config.layers * numbers) as u64;
        let bytes =
            |lora: Option<&LoraConfig>, precision| config.decoding_copy_bytes(lora, precision);
        assert_eq!(bytes(None, Precision::F32), 4 * of_layers(joined));
        let lora = LoraConfig {
            targets: vec![Projection::Down],
            ..LoraConfig::default()
        };
        assert_eq!(
            bytes(Some(&lora), Precision::F32),
            4 * of_layers(joined + down)
        );
        let head = (config.vocab_size * d) as u64;
        let rounded = of_layers(joined + output) + head;
        let expected = 2 * rounded + 4 * of_layers(down);
        assert_eq!(bytes(Some(&lora), Precision::Bf16), expected);
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
            let copies = config.decoding_copy_bytes(None, Precision::Bf16);
            assert_eq!(copies, MAX_COUNT);
            for activations in [Activations::Keep, Activations::Recompute] {
                for precision in [Precision::F32, Precision::Bf16] {
                    let bytes = config.activation_bytes(usize::MAX, activations, precision);
                    assert_eq!(bytes, MAX_COUNT);
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
