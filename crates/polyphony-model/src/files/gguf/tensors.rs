//! Translates llama.cpp's tensor names and layouts to those of Hugging Face.

use std::collections::BTreeMap;

use super::super::weights::{Conversion, StoredTensor, StoredType};
use super::keys::ModelKeys;
use super::reader::GgufTensor;
use super::rope::DIVISORS;
use crate::config::{LayerTensor, ModelConfig};
use crate::error::ModelError;

/// A tensor's name in llama.cpp and on the hub.
type Names = (&'static str, &'static str);

/// The tensors outside the layers.
const OUTSIDE_LAYERS: [Names; 2] = [
    ("token_embd.weight", "model.embed_tokens.weight"),
    ("output_norm.weight", "model.norm.weight"),
];

/// The output head, if it is not tied to the embedding.
const HEAD: Names = ("output.weight", "lm_head.weight");

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
    let expected: BTreeMap<String, HubNames> = names(config).collect();
    let mut tensors = BTreeMap::new();
    let mut unexpected = Vec::new();
    for tensor in &gguf.tensors {
        if tensor.name == DIVISORS && config.architecture.row().gguf.rope_divisors {
            // Part of the configuration.
            continue;
        }
        let Some(names) = expected.get(tensor.name) else {
            unexpected.push(tensor.name.to_owned());
            continue;
        };
        for (name, stored) in stored_tensors(keys, tensor, names, config)? {
            if tensors.insert(name, stored).is_some() {
                return Err(ModelError::Damaged {
                    path: gguf.path().to_owned(),
                    reason: format!("tensor `{}` occurs twice", tensor.name),
                });
            }
        }
    }
    let missing = expected.into_iter().filter(|(_, names)| {
        let first = names.iter().next();
        first.is_some_and(|first| !tensors.contains_key(&first))
    });
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

/// The Hugging Face tensors that a tensor in the file holds.
enum HubNames {
    One(String),
    /// One per expert, in this layer.
    Experts(usize, LayerTensor),
}

impl HubNames {
    fn iter(&self) -> Box<dyn Iterator<Item = String> + '_> {
        match self {
            Self::One(name) => Box::new(std::iter::once(name.clone())),
            Self::Experts(layer, tensor) => {
                let names = tensor.names();
                Box::new(names.map(move |name| format!("model.layers.{layer}.{name}")))
            }
        }
    }
}

/// A tensor of the file as the Hugging Face tensors that it holds.
fn stored_tensors(
    keys: ModelKeys<'_>,
    tensor: &GgufTensor<'_>,
    names: &HubNames,
    config: &ModelConfig,
) -> Result<Vec<(String, StoredTensor)>, ModelError> {
    let stored = |shape: &[usize], bytes, conversion| StoredTensor {
        shape: shape.to_vec(),
        stored: match &tensor.encoding {
            Ok(encoding) => StoredType::Numbers(*encoding),
            Err(name) => StoredType::Unreadable(name.clone()),
        },
        bytes,
        conversion,
    };
    let (layer_tensor, count) = match names {
        HubNames::One(name) => {
            let conversion = conversion(keys, tensor, name, config)?;
            let stored = stored(&tensor.shape, tensor.bytes.clone(), conversion);
            return Ok(vec![(name.clone(), stored)]);
        }
        HubNames::Experts(_, tensor) => (tensor, tensor.experts.unwrap_or(1)),
    };
    let (Some(experts), shape) = (
        tensor.shape.first(),
        tensor.shape.get(1..).unwrap_or_default(),
    ) else {
        return Ok(Vec::new());
    };
    if *experts != count {
        let expected = std::iter::once(count).chain(layer_tensor.shape.iter().copied());
        return Err(ModelError::TensorShape {
            path: keys.gguf.path().to_owned(),
            tensor: tensor.name.to_owned(),
            found: tensor.shape.clone(),
            expected: expected.collect(),
        });
    }
    let size = tensor.bytes.len() / count;
    let experts = names.iter().enumerate().map(|(index, name)| {
        let start = tensor.bytes.start + index * size;
        (
            name,
            stored(shape, start..start + size, Conversion::Unchanged),
        )
    });
    Ok(experts.collect())
}

/// The names of all tensors that a model has, llama.cpp's and Hugging Face's.
fn names(config: &ModelConfig) -> impl Iterator<Item = (String, HubNames)> {
    let head = if config.tied_head { None } else { Some(HEAD) };
    let outside = OUTSIDE_LAYERS.into_iter().chain(head);
    let outside = outside.map(|(gguf, hub)| (gguf.to_owned(), HubNames::One(hub.to_owned())));
    let layers = config.layer_tensors().into_iter().flat_map(|tensor| {
        (0..config.layers).map(move |layer| {
            let names = match tensor.experts {
                None => HubNames::One(format!("model.layers.{layer}.{}", tensor.name)),
                Some(_) => HubNames::Experts(layer, tensor.clone()),
            };
            (format!("blk.{layer}.{}", tensor.gguf_name), names)
        })
    });
    outside.chain(layers)
}

/// What llama.cpp's converter did to a tensor: see [`Conversion`].
fn conversion(
    keys: ModelKeys<'_>,
    tensor: &GgufTensor<'_>,
    name: &str,
    config: &ModelConfig,
) -> Result<Conversion, ModelError> {
    let offset = config.architecture.row().gguf.norm_offset;
    if offset != 0.0 && name.ends_with("norm.weight") {
        return Ok(Conversion::Added(offset));
    }
    let heads = match config.architecture.row().gguf.rotary_pairs {
        true if name.ends_with(".q_proj.weight") => config.heads,
        true if name.ends_with(".k_proj.weight") => config.kv_heads,
        _ => return Ok(Conversion::Unchanged),
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
    Ok(Conversion::RotaryPairs { heads })
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{Contents, fixtures};
    use crate::architectures::TINY_MODELS;
    use crate::files::ModelFiles;

    #[test]
    fn a_converted_model_is_the_original() {
        for model in TINY_MODELS {
            let directory = fixtures().join(model);
            let converted = Contents::converted(&directory).open().unwrap();
            let mut original = ModelFiles::open(&directory).unwrap();
            if original.config.parts.query_divisor.is_some() {
                // GGUF files do not have it. Of this size of model it is the root of the head size.
                original.config.parts.query_divisor = Some(4.0);
            }
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
