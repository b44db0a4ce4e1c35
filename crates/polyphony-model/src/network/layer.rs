//! A layer of the network: attention and feed-forward, each on normalized input, each added to the residual
//! stream. Parts that only some architectures have are optional.

use burn::{
    module::Module,
    tensor::{DType, Tensor},
};

use super::{
    attention::{Attention, merge_heads, split_heads},
    experts::Experts,
    layers::{Linear, RmsNorm},
    mlp::Mlp,
    rope::Rotations,
    weights::LayerReader,
};
use crate::{ModelError, Projection, kernels::ProjectionOutput};

#[derive(Module, Debug)]
pub(super) struct Layer {
    pub(super) input_layernorm: RmsNorm,
    pub(super) self_attn: SelfAttention,
    /// Normalizes the output of attention if there are norms after attention and feed-forward. Otherwise it
    /// normalizes the input of the feed-forward layer: files use this name for both.
    pub(super) post_attention_layernorm: RmsNorm,
    pub(super) pre_feedforward_layernorm: Option<RmsNorm>,
    pub(super) mlp: FeedForward,
    pub(super) post_feedforward_layernorm: Option<RmsNorm>,
}

/// The feed-forward part of a layer.
#[derive(Module, Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "there is one per layer, and it is almost always the large variant"
)]
pub(super) enum FeedForward {
    Dense(Mlp),
    Experts(Experts),
}

#[derive(Module, Debug)]
pub(super) struct SelfAttention {
    pub(super) q_proj: Linear,
    pub(super) k_proj: Linear,
    pub(super) v_proj: Linear,
    pub(super) o_proj: Linear,
    pub(super) q_norm: Option<RmsNorm>,
    pub(super) k_norm: Option<RmsNorm>,
    #[module(skip)]
    head_size: usize,
    /// What queries are multiplied by, in addition to the inverse root of the head size.
    #[module(skip)]
    pub(super) query_factor: f64,
    /// The number of last tokens that are attended to; `None` for all.
    #[module(skip)]
    pub(super) window: Option<usize>,
}

impl Layer {
    pub(super) fn load(reader: &LayerReader<'_>) -> Result<Self, ModelError> {
        let mlp = match &reader.config().parts.experts {
            None => FeedForward::Dense(Mlp::load(reader, "mlp")?),
            Some(sizes) => FeedForward::Experts(Experts::load(reader, sizes)?),
        };
        Ok(Self {
            input_layernorm: reader.norm("input_layernorm")?,
            self_attn: SelfAttention::load(reader)?,
            post_attention_layernorm: reader.norm("post_attention_layernorm")?,
            pre_feedforward_layernorm: reader.optional_norm("pre_feedforward_layernorm")?,
            mlp,
            post_feedforward_layernorm: reader.optional_norm("post_feedforward_layernorm")?,
        })
    }

    /// # Shapes
    /// - hidden and output `[T, D]`
    pub(super) fn forward(
        &self,
        hidden: Tensor<2>,
        index: usize,
        rotations: &Rotations,
        attention: &mut impl Attention,
    ) -> Tensor<2> {
        let dtype = self.self_attn.q_proj.input_dtype();
        let normed = self.input_layernorm.forward(hidden.clone(), dtype);
        let attend = |form| {
            self.self_attn
                .forward(normed, index, rotations, attention, form)
        };
        let (hidden, norm) = match &self.pre_feedforward_layernorm {
            Some(norm) => {
                let attended = attend(ProjectionOutput::Floats);
                let normed = self.post_attention_layernorm.forward(attended, DType::F32);
                (hidden + normed, norm)
            }
            None => (
                attend(ProjectionOutput::AddedTo(hidden)),
                &self.post_attention_layernorm,
            ),
        };
        let normed = norm.forward(hidden.clone(), self.mlp.input_dtype());
        match &self.post_feedforward_layernorm {
            Some(norm) => {
                let output = self.mlp.forward(normed, ProjectionOutput::Floats);
                hidden + norm.forward(output, DType::F32)
            }
            None => self.mlp.forward(normed, ProjectionOutput::AddedTo(hidden)),
        }
    }

    /// Every projection, with its path in the layer.
    pub(super) fn projections(&mut self) -> Vec<(String, Projection, &mut Linear)> {
        let mut projections = self.self_attn.projections();
        match &mut self.mlp {
            FeedForward::Dense(mlp) => projections.extend(mlp.projections("mlp".to_owned())),
            FeedForward::Experts(experts) => projections.extend(experts.projections()),
        }
        projections
    }
}

impl FeedForward {
    /// The number type in which its input is read.
    fn input_dtype(&self) -> DType {
        match self {
            Self::Dense(mlp) => mlp.input_dtype(),
            Self::Experts(experts) => experts.input_dtype(),
        }
    }

    /// # Shapes
    /// - input and output `[T, D]`
    fn forward(&self, input: Tensor<2>, form: ProjectionOutput) -> Tensor<2> {
        match self {
            Self::Dense(mlp) => mlp.forward(input, form),
            Self::Experts(experts) => form.of(experts.forward(input), self.input_dtype()),
        }
    }
}

impl SelfAttention {
    fn load(reader: &LayerReader<'_>) -> Result<Self, ModelError> {
        let config = reader.config();
        let root = (config.head_size as f64).sqrt();
        Ok(Self {
            q_proj: reader.linear("self_attn.q_proj")?,
            k_proj: reader.linear("self_attn.k_proj")?,
            v_proj: reader.linear("self_attn.v_proj")?,
            o_proj: reader.linear("self_attn.o_proj")?,
            q_norm: reader.optional_norm("self_attn.q_norm")?,
            k_norm: reader.optional_norm("self_attn.k_norm")?,
            head_size: config.head_size,
            query_factor: config
                .parts
                .query_divisor
                .map_or(1.0, |divisor| root / divisor),
            window: config.parts.window_of(reader.index()),
        })
    }

    /// # Shapes
    /// - hidden and output `[T, D]`
    fn forward(
        &self,
        hidden: Tensor<2>,
        layer: usize,
        rotations: &Rotations,
        attention: &mut impl Attention,
        form: ProjectionOutput,
    ) -> Tensor<2> {
        let heads = |projection: &Linear| {
            let rows = projection.forward(hidden.clone(), ProjectionOutput::ForProducts);
            split_heads(rows, self.head_size)
        };
        let normed = |heads, norm: &Option<RmsNorm>| match norm {
            Some(norm) => norm.forward_heads(heads),
            None => heads,
        };
        let rotation = rotations.of_layer(self.window.is_some());
        let mut queries = rotation.apply(normed(heads(&self.q_proj), &self.q_norm));
        if self.query_factor != 1.0 {
            queries = queries * self.query_factor;
        }
        let keys = rotation.apply(normed(heads(&self.k_proj), &self.k_norm));
        let values = heads(&self.v_proj);
        let attended = attention.attend(layer, self.window, queries, keys, values);
        self.o_proj.forward(merge_heads(attended), form)
    }

    fn projections(&mut self) -> Vec<(String, Projection, &mut Linear)> {
        let projections = [
            (Projection::Query, &mut self.q_proj),
            (Projection::Key, &mut self.k_proj),
            (Projection::Value, &mut self.v_proj),
            (Projection::Output, &mut self.o_proj),
        ];
        let with_path = |(kind, linear): (Projection, _)| (kind.path().to_owned(), kind, linear);
        projections.into_iter().map(with_path).collect()
    }
}
