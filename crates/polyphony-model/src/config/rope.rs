//! The settings of the rotary embedding, in the older and the newer form.

use serde_json::Value;

use super::keys::Keys;
use crate::error::ModelError;

/// How the rotary embedding turns positions into angles.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// The base of the wavelengths.
    pub theta: f64,
    /// How wavelengths are stretched for contexts longer than in pre-training.
    pub scaling: RopeScaling,
}

/// How the rotary embedding's wavelengths are stretched.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// Not at all (rope type `default`).
    Unscaled,
    /// All wavelengths by one factor (rope type `linear`).
    Linear {
        /// The factor.
        factor: f64,
    },
    /// Long wavelengths by a factor, short ones not at all, with a smooth transition between them
    /// (rope type `llama3`).
    Llama3 {
        /// The factor for long wavelengths.
        factor: f64,
        /// Wavelengths above `original_positions / low_frequency_factor` are long.
        low_frequency_factor: f64,
        /// Wavelengths below `original_positions / high_frequency_factor` are short.
        high_frequency_factor: f64,
        /// The context length of pre-training, in tokens.
        original_positions: f64,
    },
    /// YaRN (Peng et al., 2023, arXiv 2309.00071; rope type `yarn`).
    Yarn {
        /// The factor for the wavelengths that fit less than `slow` times into the original context.
        factor: f64,
        /// The factor that rotated queries and keys are multiplied by.
        attention_factor: f64,
        /// Wavelengths that fit more often than this into the original context are not stretched.
        fast: f64,
        /// Wavelengths that fit less often than this are stretched by the full factor.
        slow: f64,
        /// The context length of pre-training, in tokens.
        original_positions: f64,
        /// Whether the bounds of the transition are rounded outwards to whole coordinates.
        truncate: bool,
    },
}

const SUPPORTED: &str = "default, linear, llama3, yarn";

impl Keys<'_> {
    /// The rotary embedding, from `rope_parameters` (newer), or from `rope_scaling` and the top level
    /// (older). As in transformers, `max_positions` is the default of the original context.
    ///
    /// If both are given, transformers takes the older one; here they have to agree.
    ///
    /// If an architecture has parameters per layer type, those of `layer_type` are read from the newer one.
    pub(super) fn rope(
        &self,
        max_positions: usize,
        default_theta: f64,
        layer_type: Option<&str>,
    ) -> Result<Rope, ModelError> {
        const NEWER: &str = "rope_parameters";
        const OLDER: &str = "rope_scaling";
        self.only("partial_rotary_factor", 1.0)?;
        let filled = |value: &&Value| value.as_object().is_none_or(|object| !object.is_empty());
        let [newer, older] = [NEWER, OLDER].map(|key| self.get(key).filter(filled));
        let newer = match (newer, layer_type) {
            (Some(object), Some(layer_type)) => Some(self.of_layer_type(object, layer_type)?),
            (newer, _) => newer,
        };
        let read = |object| self.nested_rope(object, max_positions, default_theta);
        match (newer, older) {
            (None, None) => Ok(Rope {
                theta: self.rope_theta(default_theta)?,
                scaling: RopeScaling::Unscaled,
            }),
            (Some(object), None) | (None, Some(object)) => read(object),
            (Some(newer), Some(older)) => {
                let rope = read(newer)?;
                if read(older)? != rope {
                    let allowed = format!(
                        "absent, or have the same meaning as `{NEWER}`, {newer} (what is missing in \
                         either is taken from the top level)"
                    );
                    return Err(self.invalid(OLDER, older.clone(), allowed));
                }
                Ok(rope)
            }
        }
    }

    /// The rotary embedding of the layers with a sliding window: from `rope_parameters` (newer) or
    /// `rope_local_base_freq` (older).
    pub(crate) fn window_rope(&self) -> Result<Rope, ModelError> {
        let default_theta = self.positive("rope_local_base_freq")?.unwrap_or(10_000.0);
        let Some(newer) = self.get("rope_parameters") else {
            return Ok(Rope {
                theta: default_theta,
                scaling: RopeScaling::Unscaled,
            });
        };
        let rope = Keys {
            object: self.of_layer_type(newer, "sliding_attention")?,
            path: self.path,
        };
        let scaling = match rope.get("rope_type").map_or(Some("default"), Value::as_str) {
            Some("default") => RopeScaling::Unscaled,
            Some("linear") => RopeScaling::Linear {
                factor: rope.required("factor")?,
            },
            _ => {
                let kind = rope.get("rope_type").unwrap_or(&Value::Null);
                return Err(rope.unsupported("rope type", kind, "default, linear"));
            }
        };
        Ok(Rope {
            theta: rope.positive("rope_theta")?.unwrap_or(default_theta),
            scaling,
        })
    }

    /// The parameters of a layer type.
    fn of_layer_type<'a>(
        &self,
        parameters: &'a Value,
        layer_type: &str,
    ) -> Result<&'a Value, ModelError> {
        parameters
            .get(layer_type)
            .ok_or_else(|| ModelError::MissingKey {
                path: self.path.to_owned(),
                key: format!("rope_parameters.{layer_type}"),
                expected: "the parameters of the rotary embedding in layers of this type"
                    .to_owned(),
            })
    }

    fn nested_rope(
        &self,
        object: &Value,
        max_positions: usize,
        default_theta: f64,
    ) -> Result<Rope, ModelError> {
        let rope = Keys {
            object,
            path: self.path,
        };
        rope.only("partial_rotary_factor", 1.0)?;
        let theta = match rope.positive("rope_theta")? {
            Some(theta) => theta,
            None => self.rope_theta(default_theta)?,
        };
        // As in transformers, the top level takes precedence.
        let original_positions = match self.original_positions()? {
            Some(given) => given,
            None => rope.original_positions()?.unwrap_or(max_positions as f64),
        };
        let kind = rope.get("rope_type").or_else(|| rope.get("type"));
        let scaling = match kind.map_or(Some("default"), Value::as_str) {
            Some("default") => RopeScaling::Unscaled,
            Some("linear") => RopeScaling::Linear {
                factor: rope.required("factor")?,
            },
            Some("llama3") => rope.llama3(original_positions)?,
            Some("yarn") => rope.yarn(original_positions, max_positions)?,
            _ => {
                return Err(rope.unsupported("rope type", kind.unwrap_or(&Value::Null), SUPPORTED));
            }
        };
        Ok(Rope { theta, scaling })
    }

    fn rope_theta(&self, default: f64) -> Result<f64, ModelError> {
        Ok(self.positive("rope_theta")?.unwrap_or(default))
    }

    fn original_positions(&self) -> Result<Option<f64>, ModelError> {
        self.positive("original_max_position_embeddings")
    }

    fn llama3(&self, original_positions: f64) -> Result<RopeScaling, ModelError> {
        let low_frequency_factor = self.required("low_freq_factor")?;
        let high_frequency_factor = self.required("high_freq_factor")?;
        if high_frequency_factor <= low_frequency_factor {
            let allowed = format!("above `low_freq_factor`, {low_frequency_factor}");
            return Err(self.invalid("high_freq_factor", high_frequency_factor, allowed));
        }
        Ok(RopeScaling::Llama3 {
            factor: self.required("factor")?,
            low_frequency_factor,
            high_frequency_factor,
            original_positions,
        })
    }

    fn yarn(
        &self,
        original_positions: f64,
        max_positions: usize,
    ) -> Result<RopeScaling, ModelError> {
        let factor = match self.positive("factor")? {
            Some(factor) => factor,
            None => max_positions as f64 / original_positions,
        };
        let magnitude = |weight: f64| match factor <= 1.0 {
            true => 1.0,
            false => 0.1 * weight * factor.ln() + 1.0,
        };
        let weights = (self.positive("mscale")?, self.positive("mscale_all_dim")?);
        let attention_factor = match (self.positive("attention_factor")?, weights) {
            (Some(given), _) => given,
            (None, (Some(weight), Some(all))) => magnitude(weight) / magnitude(all),
            (None, _) => magnitude(1.0),
        };
        Ok(RopeScaling::Yarn {
            factor,
            attention_factor,
            fast: self.positive("beta_fast")?.unwrap_or(32.0),
            slow: self.positive("beta_slow")?.unwrap_or(1.0),
            original_positions,
            truncate: self.switch("truncate")?.unwrap_or(true),
        })
    }

    fn required(&self, key: &str) -> Result<f64, ModelError> {
        self.positive(key)?.ok_or_else(|| ModelError::MissingKey {
            path: self.path.to_owned(),
            key: key.to_owned(),
            expected: "a number above 0, which this rope type needs".to_owned(),
        })
    }
}
