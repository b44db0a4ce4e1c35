//! The weights of a network as the decoding kernels of a GPU read them: projections that read the same input joined,
//! adapters merged, numbers in the precision of the rollout, rows without gaps.

use burn::{
    backend::Cube,
    tensor::{DType, Tensor},
};
use burn_cubecl::kernel::into_contiguous;

use super::{
    Decoder,
    experts::Experts,
    layer::{FeedForward, Layer},
    layers::{Linear, RmsNorm},
    mlp::Mlp,
};
use crate::{
    Precision,
    kernels::{
        Activation,
        cube::{CubeTensor, Norm},
    },
};

/// The weights of a network. `D` hidden size, `V` vocabulary.
#[derive(Debug)]
pub(crate) struct DecodeWeights {
    /// `[V, D]`, in 32-bit floats.
    pub(crate) embeddings: CubeTensor,
    pub(crate) embedding_scale: f32,
    pub(crate) layers: Vec<DecodeLayer>,
    pub(crate) norm: Norm,
    /// `[V, D]`
    pub(crate) head: CubeTensor,
}

/// The weights of a layer. `H` query heads, `K` key and value heads, `S` head size.
#[derive(Debug)]
pub(crate) struct DecodeLayer {
    pub(crate) input_norm: Norm,
    /// Queries, keys and values, `[(H + 2 K) S, D]`.
    pub(crate) projections: CubeTensor,
    pub(crate) bias: Option<CubeTensor>,
    pub(crate) query_key_norms: Option<[Norm; 2]>,
    /// What queries are multiplied by, in addition to the inverse root of the head size.
    pub(crate) query_factor: f32,
    pub(crate) window: Option<usize>,
    /// `[D, H S]`
    pub(crate) output: CubeTensor,
    /// Normalizes the output of attention, if there is such a norm.
    pub(crate) after_attention: Option<Norm>,
    pub(crate) feed_forward_norm: Norm,
    pub(crate) feed_forward: DecodeFeedForward,
    /// Normalizes the output of the feed-forward layer, if there is such a norm.
    pub(crate) after_feed_forward: Option<Norm>,
}

/// A feed-forward layer, or `E` experts with their weights one after the other. `I` their width.
#[derive(Debug)]
pub(crate) struct DecodeFeedForward {
    /// Gate and up, `[E · 2 I, D]`.
    pub(crate) gate_up: CubeTensor,
    /// `[E · D, I]`
    pub(crate) down: CubeTensor,
    pub(crate) activation: Activation,
    pub(crate) experts: Option<DecodeRouter>,
}

/// The router of a mixture of experts.
#[derive(Debug)]
pub(crate) struct DecodeRouter {
    /// `[E, D]`
    pub(crate) weight: CubeTensor,
    /// Experts per token.
    pub(crate) chosen: usize,
    pub(crate) normalized: bool,
}

impl DecodeWeights {
    /// Copies the weights; `None` unless they are on a GPU. Matrices that are neither joined nor merged nor rounded share
    /// memory with the network's.
    pub(crate) fn of(network: &Decoder, precision: Precision) -> Option<Self> {
        let copy = Copy {
            dtype: precision.dtype(),
        };
        let embeddings = copy.plain(network.model.embed_tokens.weight())?;
        let head = match (&network.lm_head, precision) {
            (Some(head), _) => copy.joined(vec![head])?,
            (None, Precision::F32) => embeddings.clone(),
            (None, _) => copy.plain(network.model.embed_tokens.weight().cast(copy.dtype))?,
        };
        let layers = network.model.layers.iter();
        Some(Self {
            embeddings,
            embedding_scale: network.embedding_scale as f32,
            layers: layers
                .map(|layer| copy.layer(layer))
                .collect::<Option<_>>()?,
            norm: copy.norm(&network.model.norm)?,
            head,
        })
    }
}

/// How weights are copied.
struct Copy {
    dtype: DType,
}

impl Copy {
    fn layer(&self, layer: &Layer) -> Option<DecodeLayer> {
        let attention = &layer.self_attn;
        let projections = [&attention.q_proj, &attention.k_proj, &attention.v_proj];
        let bias = projections.map(Linear::bias);
        let bias = bias.into_iter().collect::<Option<Vec<_>>>();
        let query_key_norms = match (&attention.q_norm, &attention.k_norm) {
            (Some(query), Some(key)) => Some([self.norm(query)?, self.norm(key)?]),
            _ => None,
        };
        // Files use the name of this norm for both places.
        let middle = &layer.post_attention_layernorm;
        let (after_attention, feed_forward_norm) = match &layer.pre_feedforward_layernorm {
            Some(norm) => (Some(self.norm(middle)?), norm),
            None => (None, middle),
        };
        let after_feed_forward = match &layer.post_feedforward_layernorm {
            Some(norm) => Some(self.norm(norm)?),
            None => None,
        };
        Some(DecodeLayer {
            input_norm: self.norm(&layer.input_layernorm)?,
            projections: self.joined(projections.to_vec())?,
            bias: match bias {
                Some(bias) => Some(self.plain(Tensor::cat(bias, 0))?),
                None => None,
            },
            query_key_norms,
            query_factor: attention.query_factor as f32,
            window: attention.window,
            output: self.joined(vec![&attention.o_proj])?,
            after_attention,
            feed_forward_norm: self.norm(feed_forward_norm)?,
            feed_forward: self.feed_forward(&layer.mlp)?,
            after_feed_forward,
        })
    }

    fn feed_forward(&self, layer: &FeedForward) -> Option<DecodeFeedForward> {
        let (mlps, experts): (&[Mlp], _) = match layer {
            FeedForward::Dense(mlp) => (std::slice::from_ref(mlp), None),
            FeedForward::Experts(Experts {
                gate,
                experts,
                chosen,
                normalized,
            }) => {
                let router = DecodeRouter {
                    // As in the network: in smaller floats, many experts would be equally probable.
                    weight: self.plain(gate.weight())?,
                    chosen: *chosen,
                    normalized: *normalized,
                };
                (experts, Some(router))
            }
        };
        let gate_up = mlps.iter().flat_map(|mlp| [&mlp.gate_proj, &mlp.up_proj]);
        let down = mlps.iter().map(|mlp| &mlp.down_proj);
        Some(DecodeFeedForward {
            gate_up: self.joined(gate_up.collect())?,
            down: self.joined(down.collect())?,
            activation: mlps.first()?.activation,
            experts,
        })
    }

    /// Projections one below the other, with their adapters merged. With an adapter, the result has 32-bit floats, since
    /// its update can be smaller than what rounding takes away.
    fn joined(&self, projections: Vec<&Linear>) -> Option<CubeTensor> {
        let updates: Vec<_> = projections.iter().map(|linear| linear.update()).collect();
        let has_adapter = updates.iter().any(Option::is_some);
        let pairs = projections.iter().zip(updates);
        let mut matrices = pairs.map(|(linear, update)| {
            // Rounded as in training, where the update is added to the product.
            let weight = linear.weight().inner().cast(self.dtype);
            match update {
                Some(update) => weight.cast(DType::F32) + update.inner(),
                None if has_adapter => weight.cast(DType::F32),
                None => weight,
            }
        });
        let joined = match projections.len() {
            1 => matrices.next()?,
            _ => Tensor::cat(matrices.collect(), 0),
        };
        self.plain(joined)
    }

    /// A tensor in row-major order.
    fn plain<const D: usize>(&self, tensor: Tensor<D>) -> Option<CubeTensor> {
        let tensor = tensor.inner().try_into_primitive::<Cube>().ok()?;
        Some(into_contiguous(tensor))
    }

    fn norm(&self, norm: &RmsNorm) -> Option<Norm> {
        let (weight, epsilon, offset) = norm.parts();
        Some(Norm {
            weight: self.plain(weight)?,
            epsilon: epsilon as f32,
            offset,
        })
    }
}
