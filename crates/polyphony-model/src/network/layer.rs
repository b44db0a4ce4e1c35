//! A layer of the network: attention and feed-forward, each on normalized input, each added to the residual
//! stream. Parts that only some architectures have are optional.

use burn::{module::Module, tensor::Tensor};

use super::{
    attention::{Attention, merge_heads, split_heads},
    layers::{Linear, Mlp, RmsNorm},
    rope::Rotation,
    weights::LayerReader,
};
use crate::{ModelError, Projection};

#[derive(Module, Debug)]
pub(super) struct Layer {
    input_layernorm: RmsNorm,
    self_attn: SelfAttention,
    post_attention_layernorm: RmsNorm,
    mlp: Mlp,
}

#[derive(Module, Debug)]
struct SelfAttention {
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    o_proj: Linear,
    q_norm: Option<RmsNorm>,
    k_norm: Option<RmsNorm>,
    #[module(skip)]
    head_size: usize,
}

impl Layer {
    pub(super) fn load(reader: &LayerReader<'_>) -> Result<Self, ModelError> {
        Ok(Self {
            input_layernorm: reader.norm("input_layernorm")?,
            self_attn: SelfAttention::load(reader)?,
            post_attention_layernorm: reader.norm("post_attention_layernorm")?,
            mlp: Mlp::new(
                reader.linear("mlp.gate_proj")?,
                reader.linear("mlp.up_proj")?,
                reader.linear("mlp.down_proj")?,
            ),
        })
    }

    /// # Shapes
    /// - hidden and output `[T, D]`
    pub(super) fn forward(
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

    /// Every projection.
    pub(super) fn projections(&mut self) -> impl Iterator<Item = (Projection, &mut Linear)> {
        let attention = self.self_attn.projections().into_iter();
        attention.chain(self.mlp.projections())
    }
}

impl SelfAttention {
    fn load(reader: &LayerReader<'_>) -> Result<Self, ModelError> {
        Ok(Self {
            q_proj: reader.linear("self_attn.q_proj")?,
            k_proj: reader.linear("self_attn.k_proj")?,
            v_proj: reader.linear("self_attn.v_proj")?,
            o_proj: reader.linear("self_attn.o_proj")?,
            q_norm: reader.optional_norm("self_attn.q_norm")?,
            k_norm: reader.optional_norm("self_attn.k_norm")?,
            head_size: reader.config().head_size,
        })
    }

    /// # Shapes
    /// - hidden and output `[T, D]`
    fn forward(
        &self,
        hidden: Tensor<2>,
        layer: usize,
        rotation: &Rotation,
        attention: &mut impl Attention,
    ) -> Tensor<2> {
        let heads =
            |projection: &Linear| split_heads(projection.forward(hidden.clone()), self.head_size);
        let normed = |heads, norm: &Option<RmsNorm>| match norm {
            Some(norm) => norm.forward_heads(heads),
            None => heads,
        };
        let queries = rotation.apply(normed(heads(&self.q_proj), &self.q_norm));
        let keys = rotation.apply(normed(heads(&self.k_proj), &self.k_norm));
        let values = heads(&self.v_proj);
        let attended = attention.attend(layer, queries, keys, values);
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
