//! The Llama architecture (Touvron et al., 2023, arXiv 2302.13971), as SmolLM2 and Llama 3 use it.

use burn::{module::Module, tensor::Tensor};

use super::{
    attention::{Attention, merge_heads, split_heads},
    decoder::SelfAttention,
    layers::Linear,
    rope::Rotation,
    weights::WeightReader,
};
use crate::{ModelConfig, ModelError, Projection};

/// Self-attention of Llama.
#[derive(Module, Debug)]
pub(crate) struct LlamaAttention {
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    o_proj: Linear,
    #[module(skip)]
    head_size: usize,
}

impl SelfAttention for LlamaAttention {
    fn load(
        config: &ModelConfig,
        reader: &WeightReader<'_>,
        path: &str,
    ) -> Result<Self, ModelError> {
        let (d, size) = (config.hidden_size, config.head_size);
        let (queries, keys) = (config.heads * size, config.kv_heads * size);
        Ok(Self {
            q_proj: reader.linear(&format!("{path}.q_proj"), [queries, d])?,
            k_proj: reader.linear(&format!("{path}.k_proj"), [keys, d])?,
            v_proj: reader.linear(&format!("{path}.v_proj"), [keys, d])?,
            o_proj: reader.linear(&format!("{path}.o_proj"), [d, queries])?,
            head_size: size,
        })
    }

    fn forward(
        &self,
        hidden: Tensor<2>,
        layer: usize,
        rotation: &Rotation,
        attention: &mut impl Attention,
    ) -> Tensor<2> {
        let queries = split_heads(self.q_proj.forward(hidden.clone()), self.head_size);
        let keys = split_heads(self.k_proj.forward(hidden.clone()), self.head_size);
        let values = split_heads(self.v_proj.forward(hidden), self.head_size);
        let attended =
            attention.attend(layer, rotation.apply(queries), rotation.apply(keys), values);
        self.o_proj.forward(merge_heads(attended))
    }

    fn projections(&mut self) -> [(Projection, &mut Linear); 4] {
        [
            (Projection::Query, &mut self.q_proj),
            (Projection::Key, &mut self.k_proj),
            (Projection::Value, &mut self.v_proj),
            (Projection::Output, &mut self.o_proj),
        ]
    }
}
