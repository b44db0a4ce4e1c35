//! Translates llama.cpp's tensor names and layouts to those of Hugging Face.

use std::collections::BTreeMap;

use super::super::weights::{RowOrder, StoredTensor};
use super::keys::ModelKeys;
use super::reader::GgufTensor;
use super::rope::DIVISORS;
use crate::config::{Architecture, ModelConfig};
use crate::error::ModelError;

/// A tensor's name in llama.cpp and on the hub, or the part of the name after the layer.
type Names = (&'static str, &'static str);

/// The tensors outside the layers.
const OUTSIDE_LAYERS: [Names; 2] = [
    ("token_embd.weight", "model.embed_tokens.weight"),
    ("output_norm.weight", "model.norm.weight"),
];

/// The output head, if it is not tied to the embedding.
const HEAD: Names = ("output.weight", "lm_head.weight");

/// The tensors of a layer that all architectures have.
const LAYER: [Names; 9] = [
    ("attn_norm.weight", "input_layernorm.weight"),
    ("attn_q.weight", "self_attn.q_proj.weight"),
    ("attn_k.weight", "self_attn.k_proj.weight"),
    ("attn_v.weight", "self_attn.v_proj.weight"),
    ("attn_output.weight", "self_attn.o_proj.weight"),
    ("ffn_norm.weight", "post_attention_layernorm.weight"),
    ("ffn_gate.weight", "mlp.gate_proj.weight"),
    ("ffn_up.weight", "mlp.up_proj.weight"),
    ("ffn_down.weight", "mlp.down_proj.weight"),
];

/// The additional tensors of an architecture's layers.
fn additional_layer_tensors(architecture: Architecture) -> &'static [Names] {
    match architecture {
        Architecture::Llama => &[],
        Architecture::Qwen2 => &[
            ("attn_q.bias", "self_attn.q_proj.bias"),
            ("attn_k.bias", "self_attn.k_proj.bias"),
            ("attn_v.bias", "self_attn.v_proj.bias"),
        ],
        Architecture::Qwen3 => &[
            ("attn_q_norm.weight", "self_attn.q_norm.weight"),
            ("attn_k_norm.weight", "self_attn.k_norm.weight"),
        ],
    }
}

/// The tensors by Hugging Face name.
///
/// # Errors
/// If the names are not those of the architecture (the error lists all missing and unexpected ones), or
/// if the rows of a query or key projection are not whole heads.
pub(crate) fn hugging_face_tensors(
    keys: ModelKeys<'_>,
    config: &ModelConfig,
) -> Result<BTreeMap<String, StoredTensor>, ModelError> {
    let gguf = keys.gguf;
    if config.layers > gguf.tensors.len() {
        // With a hostile number, the list of names would fill the memory.
        let allowed = format!("at most the number of tensors, {}", gguf.tensors.len());
        return Err(keys.invalid("block_count", config.layers, allowed));
    }
    let expected: BTreeMap<String, String> = names(config).collect();
    let mut tensors = BTreeMap::new();
    let mut unexpected = Vec::new();
    for tensor in &gguf.tensors {
        if tensor.name == DIVISORS && config.architecture == Architecture::Llama {
            // Part of the configuration.
            continue;
        }
        let Some(name) = expected.get(tensor.name) else {
            unexpected.push(tensor.name.to_owned());
            continue;
        };
        let stored = StoredTensor {
            shape: tensor.shape.clone(),
            encoding: tensor.encoding.clone(),
            bytes: tensor.bytes.clone(),
            rows: row_order(keys, tensor, name, config)?,
        };
        if tensors.insert(name.clone(), stored).is_some() {
            return Err(ModelError::Damaged {
                path: gguf.path().to_owned(),
                reason: format!("tensor `{}` occurs twice", tensor.name),
            });
        }
    }
    let missing = expected.into_iter();
    let missing = missing.filter(|(_, name)| !tensors.contains_key(name));
    let missing: Vec<String> = missing.map(|(name, _)| name).collect();
    if missing.is_empty() && unexpected.is_empty() {
        return Ok(tensors);
    }
    Err(ModelError::TensorNames {
        path: gguf.path().to_owned(),
        missing,
        unexpected,
    })
}

/// The names of all tensors that a model has, llama.cpp's and Hugging Face's.
fn names(config: &ModelConfig) -> impl Iterator<Item = (String, String)> {
    let head = if config.tied_head { None } else { Some(HEAD) };
    let outside = OUTSIDE_LAYERS.into_iter().chain(head);
    let outside = outside.map(|(gguf, hub)| (gguf.to_owned(), hub.to_owned()));
    let additional = additional_layer_tensors(config.architecture);
    let layers = (0..config.layers).flat_map(move |layer| {
        LAYER.iter().chain(additional).map(move |(gguf, hub)| {
            (
                format!("blk.{layer}.{gguf}"),
                format!("model.layers.{layer}.{hub}"),
            )
        })
    });
    outside.chain(layers)
}

/// The order of a tensor's rows. llama.cpp's converter reorders the rows of Llama's query and key
/// projections: see [`RowOrder::RotaryPairs`].
fn row_order(
    keys: ModelKeys<'_>,
    tensor: &GgufTensor<'_>,
    name: &str,
    config: &ModelConfig,
) -> Result<RowOrder, ModelError> {
    let heads = match (config.architecture, name) {
        (Architecture::Llama, name) if name.ends_with(".q_proj.weight") => config.heads,
        (Architecture::Llama, name) if name.ends_with(".k_proj.weight") => config.kv_heads,
        _ => return Ok(RowOrder::Plain),
    };
    let rows = heads * config.head_size;
    if tensor.shape.first() != Some(&rows) {
        return Err(ModelError::TensorShape {
            path: keys.gguf.path().to_owned(),
            tensor: name.to_owned(),
            found: tensor.shape.clone(),
            expected: vec![rows, config.hidden_size],
        });
    }
    Ok(RowOrder::RotaryPairs { heads })
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{Contents, fixtures};
    use crate::files::ModelFiles;

    const MODELS: [&str; 3] = ["tiny-llama", "tiny-qwen2", "tiny-qwen3"];

    #[test]
    fn a_converted_model_is_the_original() {
        for model in MODELS {
            let directory = fixtures().join(model);
            let converted = Contents::converted(&directory).open().unwrap();
            let original = ModelFiles::open(&directory).unwrap();
            assert_eq!(converted.config, original.config, "{model}");

            let specs = original.weights.specs();
            assert_eq!(converted.weights.specs(), specs, "{model}");
            for spec in specs {
                let bits = |files: &ModelFiles| -> Vec<u32> {
                    let values = files.weights.read(&spec.name, &spec.shape).unwrap();
                    values.into_iter().map(f32::to_bits).collect()
                };
                assert!(
                    bits(&converted) == bits(&original),
                    "{model}: {}",
                    spec.name
                );
            }
        }
    }

    #[test]
    fn all_missing_and_unexpected_names_are_listed() {
        type Change = fn(&mut Contents);
        let rows: [(&str, Change, &str, &str); 5] = [
            (
                "tiny-llama",
                |c| {
                    c.tensor("blk.0.attn_q.weight").name = "blk.0.attn_q.bias".into();
                    c.tensor("output_norm.weight").name = "blk.3.ffn_up.weight".into();
                },
                "blk.0.attn_q.weight, output_norm.weight",
                "blk.0.attn_q.bias, blk.3.ffn_up.weight",
            ),
            (
                "tiny-qwen2",
                |c| {
                    c.tensors
                        .retain(|tensor| tensor.name != "blk.2.attn_v.bias");
                    c.tensor("blk.0.attn_k.bias").name = "blk.0.attn_k_norm.weight".into();
                },
                "blk.0.attn_k.bias, blk.2.attn_v.bias",
                "blk.0.attn_k_norm.weight",
            ),
            (
                "tiny-qwen3",
                |c| {
                    c.tensors
                        .retain(|tensor| !tensor.name.ends_with("_norm.weight"))
                },
                "blk.0.attn_k_norm.weight, blk.0.attn_norm.weight, blk.0.attn_q_norm.weight, \
                 blk.0.ffn_norm.weight, blk.1.attn_k_norm.weight, blk.1.attn_norm.weight, \
                 blk.1.attn_q_norm.weight, blk.1.ffn_norm.weight, blk.2.attn_k_norm.weight, \
                 blk.2.attn_norm.weight, blk.2.attn_q_norm.weight, blk.2.ffn_norm.weight, \
                 output_norm.weight",
                "none",
            ),
            (
                "tiny-qwen3",
                |c| c.tensor("blk.0.attn_q_norm.weight").name = "blk.0.attn_q.bias".into(),
                "blk.0.attn_q_norm.weight",
                "blk.0.attn_q.bias",
            ),
            (
                "tiny-qwen2",
                |c| c.tensor("blk.1.ffn_up.weight").name = "rope_freqs.weight".into(),
                "blk.1.ffn_up.weight",
                "rope_freqs.weight",
            ),
        ];
        for (model, change, missing, unexpected) in rows {
            let mut contents = Contents::converted(&fixtures().join(model));
            change(&mut contents);
            let message = contents.open().unwrap_err().to_string();
            let expected = format!(
                "tiny.gguf does not hold the tensors of this architecture; missing: {missing}; \
                 unexpected: {unexpected}"
            );
            assert!(
                message.ends_with(&expected),
                "{message:?} lacks {expected:?}"
            );
        }
    }

    #[test]
    fn an_untied_head_is_recognized_by_its_tensor() {
        let mut contents = Contents::converted(&fixtures().join("tiny-qwen3"));
        assert!(!contents.open().unwrap().config.tied_head);
        contents
            .tensors
            .retain(|tensor| tensor.name != "output.weight");
        assert!(contents.open().unwrap().config.tied_head);
    }
}
