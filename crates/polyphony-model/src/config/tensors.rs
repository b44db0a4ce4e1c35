//! The weights of a layer: names and shapes. The network is built, files are read and memory is counted from
//! this list.

use super::ModelConfig;
use crate::lora::Projection;

/// A weight that every layer has.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct LayerTensor {
    /// Its name in Hugging Face files, after the name of the layer. If each expert has such a weight, `{}`
    /// stands for the index of the expert.
    pub(crate) name: &'static str,
    /// Its name in GGUF files, after the name of the layer. There the weights of all experts are one tensor.
    pub(crate) gguf_name: &'static str,
    /// The length of every dimension, the slowest-varying first.
    pub(crate) shape: Vec<usize>,
    /// The projection whose weight it is, if it is one that adapters can be attached to.
    pub(crate) projection: Option<Projection>,
    /// The number of experts that have such a weight; `None` if it does not belong to an expert.
    pub(crate) experts: Option<usize>,
}

impl LayerTensor {
    /// Its names in Hugging Face files, after the name of the layer: one per expert, if it belongs to experts.
    pub(crate) fn names(&self) -> impl Iterator<Item = String> {
        (0..self.experts.unwrap_or(1)).map(|expert| self.name.replace("{}", &expert.to_string()))
    }
}

impl ModelConfig {
    /// The weights of a layer.
    pub(crate) fn layer_tensors(&self) -> Vec<LayerTensor> {
        let [d, inner] = [self.hidden_size, self.intermediate_size];
        let (queries, keys) = (self.query_width(), self.key_width());
        let mut tensors = Vec::new();
        let mut add_of = |experts, name: &'static str, gguf_name, shape: &[usize]| {
            let module = name.strip_suffix(".weight").unwrap_or_default();
            let is_it = |known: &Projection| module.ends_with(&format!(".{}", known.name()));
            tensors.push(LayerTensor {
                name,
                gguf_name,
                shape: shape.to_vec(),
                projection: Projection::ALL.into_iter().find(is_it),
                experts,
            });
        };
        let mut add = |name, gguf_name, shape: &[usize]| add_of(None, name, gguf_name, shape);
        add("input_layernorm.weight", "attn_norm.weight", &[d]);
        add("self_attn.q_proj.weight", "attn_q.weight", &[queries, d]);
        add("self_attn.k_proj.weight", "attn_k.weight", &[keys, d]);
        add("self_attn.v_proj.weight", "attn_v.weight", &[keys, d]);
        add(
            "self_attn.o_proj.weight",
            "attn_output.weight",
            &[d, queries],
        );
        if self.parts.attention_bias {
            add("self_attn.q_proj.bias", "attn_q.bias", &[queries]);
            add("self_attn.k_proj.bias", "attn_k.bias", &[keys]);
            add("self_attn.v_proj.bias", "attn_v.bias", &[keys]);
        }
        if self.parts.query_key_norm {
            add(
                "self_attn.q_norm.weight",
                "attn_q_norm.weight",
                &[self.head_size],
            );
            add(
                "self_attn.k_norm.weight",
                "attn_k_norm.weight",
                &[self.head_size],
            );
        }
        match self.parts.norms_after {
            true => {
                let norms = [
                    (
                        "post_attention_layernorm.weight",
                        "post_attention_norm.weight",
                    ),
                    ("pre_feedforward_layernorm.weight", "ffn_norm.weight"),
                    ("post_feedforward_layernorm.weight", "post_ffw_norm.weight"),
                ];
                norms
                    .into_iter()
                    .for_each(|(name, gguf_name)| add(name, gguf_name, &[d]));
            }
            false => add("post_attention_layernorm.weight", "ffn_norm.weight", &[d]),
        }
        match self.parts.experts {
            None => {
                add("mlp.gate_proj.weight", "ffn_gate.weight", &[inner, d]);
                add("mlp.up_proj.weight", "ffn_up.weight", &[inner, d]);
                add("mlp.down_proj.weight", "ffn_down.weight", &[d, inner]);
            }
            Some(sizes) => {
                let (count, inner) = (Some(sizes.count), sizes.intermediate_size);
                add("mlp.gate.weight", "ffn_gate_inp.weight", &[sizes.count, d]);
                let [gate, up, down] = [
                    "mlp.experts.{}.gate_proj.weight",
                    "mlp.experts.{}.up_proj.weight",
                    "mlp.experts.{}.down_proj.weight",
                ];
                add_of(count, gate, "ffn_gate_exps.weight", &[inner, d]);
                add_of(count, up, "ffn_up_exps.weight", &[inner, d]);
                add_of(count, down, "ffn_down_exps.weight", &[d, inner]);
            }
        }
        tensors
    }

    /// The weights of a projection in one layer.
    pub(crate) fn projection_tensors(&self, projection: Projection) -> Vec<LayerTensor> {
        let tensors = self.layer_tensors().into_iter();
        tensors
            .filter(|tensor| tensor.projection == Some(projection))
            .collect()
    }

    /// The width of all queries of a token in one layer. The largest sizes saturate.
    pub(super) fn query_width(&self) -> usize {
        self.heads.saturating_mul(self.head_size)
    }

    /// The width of all keys of a token in one layer. Its values have the same width.
    pub(super) fn key_width(&self) -> usize {
        self.kv_heads.saturating_mul(self.head_size)
    }
}
