//! The memory that updates need, independent of the algorithm.

use std::num::Saturating;

use polyphony_model::Precision;

use crate::{
    algorithm::{AgentSpec, AlgorithmMemory, ComputeDevice, MemoryNeed},
    config::TrainingConfig,
};

/// Bytes of a 32-bit float.
pub(crate) const FLOAT_BYTES: u64 = 4;

impl AgentSpec {
    /// The number of trainable parameters.
    pub fn trainable_parameters(&self) -> u64 {
        match &self.lora {
            None => self.model.weight_count(),
            Some(lora) => self.model.adapter_weight_count(lora),
        }
    }

    /// The bytes of the moments of all trainable parameters.
    fn moment_bytes(&self, config: &TrainingConfig) -> u64 {
        let sizes = match &self.lora {
            None => self.model.weight_sizes(),
            Some(lora) => self.model.adapter_weight_sizes(lora),
        };
        let is_on_cpu = self.device == ComputeDevice::Cpu;
        let bytes = sizes.iter().map(|size| {
            let each = config.updates.moments.bytes(size.scalars, is_on_cpu);
            Saturating(each) * Saturating(size.weights)
        });
        bytes.sum::<Saturating<u64>>().0
    }

    /// What an update by [`gradient_step`](crate::gradient_step) needs from groups of this many
    /// responses: the optimizer's moments, gradients and activations.
    pub fn update_memory(&self, samples: usize, config: &TrainingConfig) -> AlgorithmMemory {
        let parameters = self.trainable_parameters();
        // The groups of a minibatch are differentiated one after the other. From the second group on, the
        // gradients of the group and the sum of all earlier ones are in memory together.
        let gradient_copies = match config.updates.minibatch * self.roles {
            0 | 1 => 1,
            _ => 2,
        };
        let activations = self.longest_history_tokens.map_or(0, |history| {
            let tokens = history + samples * config.max_new_tokens;
            let activations = config.updates.activations;
            self.model
                .activation_bytes(tokens, activations, self.precision)
        });
        AlgorithmMemory {
            lasting: vec![MemoryNeed::new("optimizer", self.moment_bytes(config))],
            temporary: vec![
                MemoryNeed::new("gradients", gradient_copies * parameters * FLOAT_BYTES),
                MemoryNeed::new("activations", activations),
            ],
        }
    }

    /// The bytes of a reference, the policy that the agent starts from. They are 0 for adapters, whose frozen
    /// base weights already are the reference. They are also 0 if an earlier agent starts from the same
    /// model, since both share one reference.
    pub fn reference_bytes(&self) -> u64 {
        match (&self.lora, self.shares_initial_weights) {
            (Some(_), _) | (None, true) => 0,
            (None, false) => self.model.weight_count() * FLOAT_BYTES + self.packed_bytes(),
        }
    }

    /// The bytes of the copy of a model's weights from which the products of the CPU read in bfloat16.
    pub fn packed_bytes(&self) -> u64 {
        match (self.precision, self.device) {
            (Precision::Bf16, ComputeDevice::Cpu) => {
                self.model.product_weight_count() * self.precision.bytes()
            }
            _ => 0,
        }
    }
}
