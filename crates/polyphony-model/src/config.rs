//! What a model looks like: the sizes and constants of a Hugging Face `config.json`.
//!
//! Both spellings are understood: the older one (`rope_theta` and `rope_scaling` at the top level)
//! and that of transformers 5 (`rope_parameters`). A setting that the network does not implement is
//! an error here, so that no model is ever run wrongly in silence.

use std::path::Path;

use serde_json::Value;

use crate::error::ModelError;

/// The largest size accepted anywhere in a configuration, so that products of sizes stay far from
/// overflow.
const MAX_SIZE: usize = i32::MAX as usize;

/// A family of networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Architecture {
    /// Llama, as used by SmolLM2 and Llama 3 (`LlamaForCausalLM`).
    Llama,
}

/// Sizes and constants of a network.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// The family of networks.
    pub architecture: Architecture,
    /// Tokens that have an embedding.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward layers.
    pub intermediate_size: usize,
    /// Transformer layers.
    pub layers: usize,
    /// Query heads a layer.
    pub heads: usize,
    /// Key and value heads a layer; divides `heads`.
    pub kv_heads: usize,
    /// Width of one head; even, and not always `hidden_size / heads`.
    pub head_size: usize,
    /// What RMS norm adds to the mean square before the root.
    pub norm_epsilon: f64,
    /// The base of the rotary embedding's wavelengths.
    pub rope_theta: f64,
    /// The longest sequence, in tokens, that the model was made for.
    pub max_positions: usize,
    /// Whether the output head shares the embedding's weights.
    pub tied_head: bool,
}

impl ModelConfig {
    /// Reads a Hugging Face `config.json`; `path` is where it came from, for messages.
    ///
    /// Absent keys take the defaults of transformers' `LlamaConfig`, except for the sizes, which
    /// must be there.
    ///
    /// # Errors
    /// If a size is missing, a value is out of range, or the architecture, rope type, activation
    /// or bias setting is not supported.
    pub fn from_json(config: &Value, path: &Path) -> Result<Self, ModelError> {
        let keys = Keys {
            object: config,
            path,
        };
        let architecture = keys.architecture()?;
        keys.only("hidden_act", "silu")?;
        keys.only("attention_bias", false)?;
        keys.only("mlp_bias", false)?;

        let hidden_size = keys.size("hidden_size")?;
        let heads = keys.size("num_attention_heads")?;
        let kv_heads = keys.optional_size("num_key_value_heads")?.unwrap_or(heads);
        if !heads.is_multiple_of(kv_heads) {
            let allowed = format!("a divisor of `num_attention_heads`, {heads}");
            return Err(keys.invalid("num_key_value_heads", kv_heads, allowed));
        }
        let head_size = match keys.optional_size("head_dim")? {
            Some(size) => size,
            None if hidden_size.is_multiple_of(heads) => hidden_size / heads,
            None => {
                let allowed = format!("a multiple of `num_attention_heads`, {heads}");
                return Err(keys.invalid("hidden_size", hidden_size, allowed));
            }
        };
        if head_size % 2 == 1 {
            return Err(keys.invalid("head_dim", head_size, "even, for the rotary embedding"));
        }

        Ok(Self {
            architecture,
            vocab_size: keys.size("vocab_size")?,
            hidden_size,
            intermediate_size: keys.size("intermediate_size")?,
            layers: keys.size("num_hidden_layers")?,
            heads,
            kv_heads,
            head_size,
            norm_epsilon: keys.positive("rms_norm_eps")?.unwrap_or(1e-6),
            rope_theta: keys.rope_theta()?,
            max_positions: keys
                .optional_size("max_position_embeddings")?
                .unwrap_or(2048),
            tied_head: keys.switch("tie_word_embeddings")?.unwrap_or(false),
        })
    }
}

/// Typed access to the keys of one JSON object. A key whose value is `null` counts as absent.
struct Keys<'a> {
    object: &'a Value,
    path: &'a Path,
}

impl Keys<'_> {
    fn get(&self, key: &str) -> Option<&Value> {
        self.object.get(key).filter(|value| !value.is_null())
    }

    fn invalid(
        &self,
        key: &str,
        given: impl Into<Value>,
        allowed: impl Into<String>,
    ) -> ModelError {
        ModelError::InvalidValue {
            path: self.path.to_owned(),
            key: key.to_owned(),
            given: given.into().to_string(),
            allowed: allowed.into(),
        }
    }

    fn unsupported(&self, what: &str, given: &Value, supported: &str) -> ModelError {
        let given = given
            .as_str()
            .map_or_else(|| given.to_string(), str::to_owned);
        ModelError::Unsupported {
            path: self.path.to_owned(),
            what: what.to_owned(),
            given,
            supported: supported.to_owned(),
        }
    }

    fn size(&self, key: &str) -> Result<usize, ModelError> {
        self.optional_size(key)?
            .ok_or_else(|| ModelError::MissingKey {
                path: self.path.to_owned(),
                key: key.to_owned(),
                expected: "a whole number of at least 1".to_owned(),
            })
    }

    fn optional_size(&self, key: &str) -> Result<Option<usize>, ModelError> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        let size = value.as_u64().and_then(|size| usize::try_from(size).ok());
        match size {
            Some(size) if (1..=MAX_SIZE).contains(&size) => Ok(Some(size)),
            _ => {
                let allowed = format!("a whole number from 1 to {MAX_SIZE}");
                Err(self.invalid(key, value.clone(), allowed))
            }
        }
    }

    fn positive(&self, key: &str) -> Result<Option<f64>, ModelError> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        match value.as_f64() {
            Some(number) if number > 0.0 => Ok(Some(number)),
            _ => Err(self.invalid(key, value.clone(), "a number above 0")),
        }
    }

    fn switch(&self, key: &str) -> Result<Option<bool>, ModelError> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        match value.as_bool() {
            Some(switch) => Ok(Some(switch)),
            None => Err(self.invalid(key, value.clone(), "true or false")),
        }
    }

    /// Refuses every value but one; absent is fine.
    fn only(&self, key: &str, supported: impl Into<Value>) -> Result<(), ModelError> {
        let supported = supported.into();
        match self.get(key) {
            Some(value) if *value != supported => Err(self.invalid(
                key,
                value.clone(),
                format!("{supported} (all that is supported)"),
            )),
            _ => Ok(()),
        }
    }

    fn architecture(&self) -> Result<Architecture, ModelError> {
        const SUPPORTED: &str = "LlamaForCausalLM (model_type llama)";
        let class = self
            .get("architectures")
            .map(|list| list.get(0).unwrap_or(list));
        let model_type = self.get("model_type");
        if class.or(model_type).is_none() {
            return Err(ModelError::MissingKey {
                path: self.path.to_owned(),
                key: "architectures".to_owned(),
                expected: format!("a list with one of: {SUPPORTED}"),
            });
        }
        let named = [(class, "LlamaForCausalLM"), (model_type, "llama")];
        let unknown = named.map(|(given, known)| given.filter(|&given| given != known));
        match unknown.into_iter().flatten().next() {
            None => Ok(Architecture::Llama),
            Some(unknown) => Err(self.unsupported("architecture", unknown, SUPPORTED)),
        }
    }

    /// The rotary base, from `rope_parameters` (newer) or the top level (older).
    fn rope_theta(&self) -> Result<f64, ModelError> {
        for key in ["rope_parameters", "rope_scaling"] {
            let Some(rope) = self.get(key) else { continue };
            let rope = Keys {
                object: rope,
                path: self.path,
            };
            if let Some(kind) = rope.get("rope_type").or_else(|| rope.get("type"))
                && kind != "default"
            {
                return Err(self.unsupported("rope type", kind, "default"));
            }
            rope.only("partial_rotary_factor", 1.0)?;
        }
        self.only("partial_rotary_factor", 1.0)?;
        let newer = self.get("rope_parameters").map(|rope| Keys {
            object: rope,
            path: self.path,
        });
        let theta = match newer {
            Some(rope) => rope.positive("rope_theta")?,
            None => None,
        };
        Ok(theta.or(self.positive("rope_theta")?).unwrap_or(10_000.0))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// The older keys, as SmolLM2 has them.
    fn older() -> Value {
        json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama",
            "attention_bias": false, "mlp_bias": false, "hidden_act": "silu",
            "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536,
            "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3,
            "max_position_embeddings": 8192, "rms_norm_eps": 1e-5,
            "rope_theta": 100000, "rope_scaling": null, "tie_word_embeddings": true,
        })
    }

    fn parse(config: &Value) -> Result<ModelConfig, ModelError> {
        ModelConfig::from_json(config, Path::new("some/config.json"))
    }

    /// The older configuration with some keys changed; `null` removes a key.
    fn with(changes: Value) -> Value {
        let mut config = older();
        let object = config.as_object_mut().unwrap();
        for (key, value) in changes.as_object().unwrap() {
            object.insert(key.clone(), value.clone());
        }
        config
    }

    #[test]
    fn older_and_newer_keys_say_the_same() {
        let expected = ModelConfig {
            architecture: Architecture::Llama,
            vocab_size: 49152,
            hidden_size: 576,
            intermediate_size: 1536,
            layers: 30,
            heads: 9,
            kv_heads: 3,
            head_size: 64,
            norm_epsilon: 1e-5,
            rope_theta: 1e5,
            max_positions: 8192,
            tied_head: true,
        };
        let newer = json!({
            "rope_theta": null, "head_dim": 64, "architectures": null,
            "rope_parameters": {"rope_theta": 1e5, "rope_type": "default"},
        });
        for config in [older(), with(newer), with(json!({"model_type": null}))] {
            assert_eq!(parse(&config).unwrap(), expected);
        }
    }

    #[test]
    fn absent_keys_take_the_defaults_of_transformers() {
        let config = parse(&with(json!({
            "num_key_value_heads": null, "rope_theta": null, "rms_norm_eps": null,
            "max_position_embeddings": null, "tie_word_embeddings": null, "hidden_act": null,
        })))
        .unwrap();
        assert_eq!(
            (config.kv_heads, config.max_positions, config.tied_head),
            (9, 2048, false)
        );
        assert_eq!((config.rope_theta, config.norm_epsilon), (1e4, 1e-6));
    }

    #[test]
    fn a_head_may_be_wider_than_its_share() {
        assert_eq!(
            parse(&with(json!({"head_dim": 128}))).unwrap().head_size,
            128
        );
    }

    #[test]
    fn unsupported_and_senseless_values_are_named() {
        let rows = [
            (
                json!({"architectures": ["MambaForCausalLM"]}),
                "architecture `MambaForCausalLM`",
            ),
            (
                json!({"architectures": null, "model_type": "gpt2"}),
                "architecture `gpt2`",
            ),
            (
                json!({"architectures": null, "model_type": null}),
                "no key `architectures`",
            ),
            (
                json!({"rope_scaling": {"rope_type": "llama3"}}),
                "rope type `llama3`",
            ),
            (
                json!({"rope_scaling": {"type": "linear"}}),
                "rope type `linear`",
            ),
            (
                json!({"rope_parameters": {"rope_type": "yarn"}}),
                "rope type `yarn`",
            ),
            (
                json!({"partial_rotary_factor": 0.5}),
                "`partial_rotary_factor` is 0.5",
            ),
            (json!({"attention_bias": true}), "`attention_bias` is true"),
            (json!({"mlp_bias": true}), "`mlp_bias` is true"),
            (
                json!({"hidden_act": "gelu"}),
                "`hidden_act` is \"gelu\", but must be \"silu\"",
            ),
            (
                json!({"num_attention_heads": 0}),
                "`num_attention_heads` is 0",
            ),
            (
                json!({"num_key_value_heads": 4}),
                "`num_key_value_heads` is 4, but must be a divisor",
            ),
            (
                json!({"num_attention_heads": 10, "num_key_value_heads": 5}),
                "`hidden_size` is 576",
            ),
            (
                json!({"head_dim": 63}),
                "`head_dim` is 63, but must be even",
            ),
            (json!({"hidden_size": 0}), "`hidden_size` is 0"),
            (json!({"hidden_size": -8}), "`hidden_size` is -8"),
            (json!({"hidden_size": "576"}), "`hidden_size` is \"576\""),
            (json!({"vocab_size": null}), "no key `vocab_size`"),
            (
                json!({"num_hidden_layers": 1u64 << 40}),
                "`num_hidden_layers` is 1099511627776",
            ),
            (json!({"rms_norm_eps": 0.0}), "`rms_norm_eps` is 0.0"),
            (json!({"rope_theta": -1}), "`rope_theta` is -1"),
            (
                json!({"tie_word_embeddings": "yes"}),
                "`tie_word_embeddings` is \"yes\"",
            ),
        ];
        for (changes, expected) in rows {
            let message = parse(&with(changes)).unwrap_err().to_string();
            assert!(message.contains(expected), "{message:?} lacks {expected:?}");
            assert!(
                message.starts_with("some/config.json"),
                "{message:?} names no file"
            );
        }
    }
}
