//! The Llama architecture (Touvron et al., 2023, arXiv 2302.13971), as SmolLM2 and Llama 3 use it.
//!
//! Field names are those of Hugging Face checkpoints, so that a parameter's path in the module is
//! its name in the file. Legend for shapes: `T` tokens, `D` hidden size, `H` query heads, `K` key
//! and value heads, `S` head size.

use burn::{
    module::Module,
    tensor::{Device, Int, Tensor},
};

use super::{
    attention::Attention,
    layers::{Embedding, Linear, RmsNorm, SwiGlu},
    rope::Rotation,
    weights::WeightReader,
};
use crate::{ModelConfig, ModelError};

/// The network: token ids in, hidden states of the last layer out.
#[derive(Module, Debug)]
pub(crate) struct Llama {
    model: Trunk,
    lm_head: Option<Linear>,
}

#[derive(Module, Debug)]
struct Trunk {
    embed_tokens: Embedding,
    layers: Vec<Layer>,
    norm: RmsNorm,
}

#[derive(Module, Debug)]
struct Layer {
    input_layernorm: RmsNorm,
    self_attn: SelfAttention,
    post_attention_layernorm: RmsNorm,
    mlp: SwiGlu,
}

#[derive(Module, Debug)]
struct SelfAttention {
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    o_proj: Linear,
    #[module(skip)]
    heads: usize,
    #[module(skip)]
    kv_heads: usize,
    #[module(skip)]
    head_size: usize,
}

impl Llama {
    /// Builds the network and reads its weights.
    pub(crate) fn load(
        config: &ModelConfig,
        reader: &WeightReader<'_>,
    ) -> Result<Self, ModelError> {
        let (d, v) = (config.hidden_size, config.vocab_size);
        let embed_tokens = Embedding::new(reader.matrix("model.embed_tokens.weight", [v, d])?);
        let layers = (0..config.layers)
            .map(|index| Layer::load(config, reader, &format!("model.layers.{index}")))
            .collect::<Result<_, _>>()?;
        let norm = RmsNorm::new(reader.vector("model.norm.weight", d)?, config.norm_epsilon);
        let lm_head = match config.tied_head {
            true => None,
            false => Some(Linear::new(reader.matrix("lm_head.weight", [v, d])?)),
        };
        Ok(Self {
            model: Trunk {
                embed_tokens,
                layers,
                norm,
            },
            lm_head,
        })
    }

    /// A network without weights, to stand in for one that has been moved out.
    pub(crate) fn hollow(device: &Device) -> Self {
        let matrix = || Tensor::zeros([0, 0], device);
        let norm = RmsNorm::new(Tensor::zeros([0], device), 0.0);
        let embed_tokens = Embedding::new(matrix());
        Self {
            model: Trunk {
                embed_tokens,
                layers: Vec::new(),
                norm,
            },
            lm_head: None,
        }
    }

    /// The hidden states after the last normalization.
    ///
    /// # Shapes
    /// - ids `[T]`, output `[T, D]`
    pub(crate) fn forward(
        &self,
        ids: Tensor<1, Int>,
        rotation: &Rotation,
        attention: &mut impl Attention,
    ) -> Tensor<2> {
        let mut hidden = self.model.embed_tokens.forward(ids);
        for (index, layer) in self.model.layers.iter().enumerate() {
            hidden = layer.forward(hidden, index, rotation, attention);
        }
        self.model.norm.forward(hidden)
    }

    /// The output head's weight, `[V, D]`: its own, or the embedding table where they are tied.
    pub(crate) fn head(&self) -> Tensor<2> {
        match &self.lm_head {
            Some(head) => head.weight(),
            None => self.model.embed_tokens.weight(),
        }
    }

    /// The device that holds the weights.
    pub(crate) fn device(&self) -> Device {
        self.model.embed_tokens.weight().device()
    }
}

impl Layer {
    fn load(
        config: &ModelConfig,
        reader: &WeightReader<'_>,
        path: &str,
    ) -> Result<Self, ModelError> {
        let d = config.hidden_size;
        let norm = |name: &str| {
            Ok(RmsNorm::new(
                reader.vector(&format!("{path}.{name}.weight"), d)?,
                config.norm_epsilon,
            ))
        };
        let linear = |name: &str, shape| {
            Ok(Linear::new(
                reader.matrix(&format!("{path}.{name}.weight"), shape)?,
            ))
        };
        let inner = config.intermediate_size;
        let (queries, keys) = (
            config.heads * config.head_size,
            config.kv_heads * config.head_size,
        );
        Ok(Self {
            input_layernorm: norm("input_layernorm")?,
            self_attn: SelfAttention {
                q_proj: linear("self_attn.q_proj", [queries, d])?,
                k_proj: linear("self_attn.k_proj", [keys, d])?,
                v_proj: linear("self_attn.v_proj", [keys, d])?,
                o_proj: linear("self_attn.o_proj", [d, queries])?,
                heads: config.heads,
                kv_heads: config.kv_heads,
                head_size: config.head_size,
            },
            post_attention_layernorm: norm("post_attention_layernorm")?,
            mlp: SwiGlu::new(
                linear("mlp.gate_proj", [inner, d])?,
                linear("mlp.up_proj", [inner, d])?,
                linear("mlp.down_proj", [d, inner])?,
            ),
        })
    }

    fn forward(
        &self,
        hidden: Tensor<2>,
        index: usize,
        rotation: &Rotation,
        attention: &mut impl Attention,
    ) -> Tensor<2> {
        let normed = self.input_layernorm.forward(hidden.clone());
        let hidden = hidden + self.self_attn.forward(normed, index, rotation, attention);
        let normed = self.post_attention_layernorm.forward(hidden.clone());
        hidden + self.mlp.forward(normed)
    }
}

impl SelfAttention {
    fn forward(
        &self,
        hidden: Tensor<2>,
        index: usize,
        rotation: &Rotation,
        attention: &mut impl Attention,
    ) -> Tensor<2> {
        let [tokens, _] = hidden.dims();
        let split =
            |projected: Tensor<2>, heads| projected.reshape([tokens, heads, self.head_size]);
        let queries = split(self.q_proj.forward(hidden.clone()), self.heads);
        let keys = split(self.k_proj.forward(hidden.clone()), self.kv_heads);
        let values = split(self.v_proj.forward(hidden), self.kv_heads);
        let seen = attention.attend(index, rotation.apply(queries), rotation.apply(keys), values);
        self.o_proj
            .forward(seen.reshape([tokens, self.heads * self.head_size]))
    }
}
