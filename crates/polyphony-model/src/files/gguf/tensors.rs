//! From llama.cpp's tensor names and layouts to those of Hugging Face.

use std::collections::BTreeMap;

use super::super::weights::{RowOrder, StoredTensor};
use super::reader::{Gguf, GgufTensor};
use crate::config::ModelConfig;
use crate::error::ModelError;

/// The tensors by Hugging Face name.
///
/// # Errors
/// If a name is not one of the architecture's (all such names are listed), or the rows of a query
/// or key projection are not whole heads.
pub(crate) fn hugging_face_tensors(
    gguf: &Gguf<'_>,
    config: &ModelConfig,
) -> Result<BTreeMap<String, StoredTensor>, ModelError> {
    let mut tensors = BTreeMap::new();
    let mut unexpected = Vec::new();
    for tensor in &gguf.tensors {
        let Some(name) = hugging_face_name(tensor.name) else {
            unexpected.push(tensor.name.to_owned());
            continue;
        };
        let stored = StoredTensor {
            shape: tensor.shape.clone(),
            encoding: tensor.encoding.clone(),
            bytes: tensor.bytes.clone(),
            rows: row_order(gguf, tensor, &name, config)?,
        };
        if tensors.insert(name, stored).is_some() {
            return Err(ModelError::Damaged {
                path: gguf.path().to_owned(),
                reason: format!("tensor `{}` occurs twice", tensor.name),
            });
        }
    }
    if !unexpected.is_empty() {
        let path = gguf.path().to_owned();
        return Err(ModelError::TensorNames {
            path,
            missing: Vec::new(),
            unexpected,
        });
    }
    Ok(tensors)
}

/// The Hugging Face name of a tensor of the Llama family.
fn hugging_face_name(name: &str) -> Option<String> {
    let whole = match name {
        "token_embd.weight" => Some("model.embed_tokens.weight"),
        "output_norm.weight" => Some("model.norm.weight"),
        "output.weight" => Some("lm_head.weight"),
        _ => None,
    };
    if let Some(whole) = whole {
        return Some(whole.to_owned());
    }
    let (layer, part) = name.strip_prefix("blk.")?.split_once('.')?;
    let layer: usize = layer.parse().ok()?;
    let module = match part.strip_suffix(".weight")? {
        "attn_norm" => "input_layernorm",
        "attn_q" => "self_attn.q_proj",
        "attn_k" => "self_attn.k_proj",
        "attn_v" => "self_attn.v_proj",
        "attn_output" => "self_attn.o_proj",
        "ffn_norm" => "post_attention_layernorm",
        "ffn_gate" => "mlp.gate_proj",
        "ffn_up" => "mlp.up_proj",
        "ffn_down" => "mlp.down_proj",
        _ => return None,
    };
    Some(format!("model.layers.{layer}.{module}.weight"))
}

/// llama.cpp's converter reorders the rows of Llama's query and key projections, so that the two
/// halves which rotary embedding pairs lie side by side.
fn row_order(
    gguf: &Gguf<'_>,
    tensor: &GgufTensor<'_>,
    name: &str,
    config: &ModelConfig,
) -> Result<RowOrder, ModelError> {
    let heads = if name.ends_with(".q_proj.weight") {
        config.heads
    } else if name.ends_with(".k_proj.weight") {
        config.kv_heads
    } else {
        return Ok(RowOrder::Plain);
    };
    let rows = heads * config.head_size;
    if tensor.shape.first() != Some(&rows) {
        return Err(ModelError::TensorShape {
            path: gguf.path().to_owned(),
            tensor: name.to_owned(),
            found: tensor.shape.clone(),
            expected: vec![rows, config.hidden_size],
        });
    }
    Ok(RowOrder::RotaryPairs { heads })
}
