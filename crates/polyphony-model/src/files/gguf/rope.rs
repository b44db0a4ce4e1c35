//! Rope scaling: from llama.cpp's metadata to `rope_scaling` in a `config.json`.

use std::f64::consts::TAU;

use serde_json::{Value, json};

use super::keys::ModelKeys;
use super::reader::GgufTensor;
use super::value::decimal;
use crate::error::ModelError;

/// The tensor with the divisor of each coordinate pair's frequency. It is llama.cpp's form of Llama 3's
/// rope type, in which the divisors differ.
pub(crate) const DIVISORS: &str = "rope_freqs.weight";

/// The low-frequency factor, the high-frequency factor and the pre-training context of Llama 3 models.
/// All of them have the same values, so llama.cpp's converter leaves them out of the metadata.
const LLAMA3: (f64, f64, f64) = (1.0, 4.0, 8192.0);

const SUPPORTED: &str = "none, linear, yarn, and llama3 as the tensor rope_freqs.weight";

/// The parameters of a rotary embedding that its scaling depends on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rotary {
    /// The base of the wavelengths.
    pub(crate) theta: f64,
    /// Coordinates of a head.
    pub(crate) head_size: u64,
    /// The model's context, in tokens.
    pub(crate) max_positions: u64,
    /// Whether the architecture supports the tensor of divisors.
    pub(crate) has_divisors: bool,
}

/// The value of `rope_scaling`: an object, or null if nothing is scaled.
///
/// # Errors
/// If the scaling has another type, lacks a number, or has a number that transformers' types lack.
pub(crate) fn rope_scaling(keys: ModelKeys<'_>, rotary: Rotary) -> Result<Value, ModelError> {
    let factor = match keys.positive("rope.scaling.factor")? {
        Some(factor) => Some(factor),
        // The key's older name.
        None => keys.positive("rope.scale_linear")?,
    };
    keys.only("rope.scaling.alpha", 0.0)?;
    let kind = keys.gguf.text(&keys.key("rope.scaling.type"))?;
    let scaling = match kind {
        Some("none") => Value::Null,
        // As in llama.cpp, a factor without a type is linear.
        None | Some("linear") => match factor.filter(|factor| *factor != 1.0) {
            Some(factor) => json!({"rope_type": "linear", "factor": factor}),
            None => Value::Null,
        },
        Some("yarn") => return yarn(keys, factor, rotary),
        Some(kind) => return Err(keys.gguf.unsupported("rope type", kind, SUPPORTED)),
    };
    keys.only("rope.scaling.attn_factor", 1.0)?;
    match divisors(keys, rotary) {
        Some(divisors) if scaling.is_null() => llama3(keys, divisors, rotary),
        Some(_) => Err(unexpected_divisors(keys, "linear")),
        None => Ok(scaling),
    }
}

/// The tensor of divisors, if the architecture supports it and the file has it.
fn divisors<'a>(keys: ModelKeys<'a>, rotary: Rotary) -> Option<&'a GgufTensor<'a>> {
    let tensor = keys.gguf.tensor(DIVISORS);
    tensor.filter(|_| rotary.has_divisors)
}

fn unexpected_divisors(keys: ModelKeys<'_>, kind: &str) -> ModelError {
    let given = format!("{kind} with the tensor {DIVISORS}");
    keys.gguf.unsupported("rope type", &given, SUPPORTED)
}

fn yarn(keys: ModelKeys<'_>, factor: Option<f64>, rotary: Rotary) -> Result<Value, ModelError> {
    if divisors(keys, rotary).is_some() {
        return Err(unexpected_divisors(keys, "yarn"));
    }
    let factor = factor.ok_or_else(|| {
        let key = keys.key("rope.scaling.factor");
        keys.gguf
            .missing(&key, "a number above 0, which yarn needs")
    })?;
    let original = keys.whole("rope.scaling.original_context_length")?;
    let mut scaling = json!({
        "rope_type": "yarn",
        "factor": factor,
        "original_max_position_embeddings": original.unwrap_or(rotary.max_positions),
    });
    for (name, key) in [
        ("beta_fast", "rope.scaling.yarn_beta_fast"),
        ("beta_slow", "rope.scaling.yarn_beta_slow"),
    ] {
        if let Some(turns) = keys.positive(key)? {
            scaling[name] = json!(turns);
        }
    }
    // Settings of llama.cpp that transformers' yarn does not have.
    keys.only("rope.scaling.yarn_ext_factor", 1.0)?;
    keys.only("rope.scaling.yarn_log_multiplier", 0.0)?;

    // Two keys set the factor that rotated queries and keys are multiplied by: `yarn_attn_factor` is
    // transformers' `attention_factor`, and `attn_factor` multiplies the default that follows from `factor`.
    let absolute = keys.positive("rope.scaling.yarn_attn_factor")?;
    let multiple = keys.positive("rope.scaling.attn_factor")?;
    let attention_factor = match (absolute, multiple.filter(|multiple| *multiple != 1.0)) {
        (None, None) => return Ok(scaling),
        (Some(absolute), None) => absolute,
        (None, Some(multiple)) => multiple * (0.1 * factor.ln().max(0.0) + 1.0),
        (Some(_), Some(multiple)) => {
            let allowed = "1 (all that is supported beside `yarn_attn_factor`)";
            return Err(keys.invalid("rope.scaling.attn_factor", multiple, allowed));
        }
    };
    scaling["attention_factor"] = json!(attention_factor);
    Ok(scaling)
}

/// Recovers the parameters of Llama 3's rope type from its divisors. The largest divisor is the factor;
/// the other parameters are assumed and verified by computing the divisors from them.
fn llama3(
    keys: ModelKeys<'_>,
    tensor: &GgufTensor<'_>,
    rotary: Rotary,
) -> Result<Value, ModelError> {
    const TOLERANCE: f64 = 1e-4;
    let (path, name) = (keys.gguf.path().to_owned(), DIVISORS.to_owned());
    let pairs = (rotary.head_size / 2) as usize;
    if tensor.shape != [pairs] {
        return Err(ModelError::TensorShape {
            path,
            tensor: name,
            found: tensor.shape.clone(),
            expected: vec![pairs],
        });
    }
    let divisors = keys.gguf.values(tensor)?;
    let factor = decimal(divisors.iter().copied().fold(0.0, f32::max));
    let (low, high, original) = LLAMA3;
    for (pair, divisor) in divisors.into_iter().enumerate() {
        let exponent = -2.0 * pair as f64 / rotary.head_size as f64;
        let turns = original * rotary.theta.powf(exponent) / TAU;
        let unscaled = ((turns - low) / (high - low)).clamp(0.0, 1.0);
        let expected = 1.0 / (unscaled + (1.0 - unscaled) / factor);
        let close = (f64::from(divisor) - expected).abs() <= TOLERANCE * expected;
        if !close {
            let allowed = format!(
                "{expected}: only rope type llama3 with factor {factor}, low_freq_factor {low}, \
                 high_freq_factor {high} and original_max_position_embeddings {original} can be \
                 recovered from this tensor"
            );
            let entry = format!("{DIVISORS}[{pair}]");
            return Err(keys.gguf.invalid(&entry, divisor, allowed));
        }
    }
    Ok(json!({
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": low,
        "high_freq_factor": high,
        "original_max_position_embeddings": original as u64,
    }))
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{Contents, F32, Meta, TensorData, fixtures};
    use super::*;
    use crate::config::RopeScaling;

    /// Keys below an architecture's `rope.`, and their values.
    type Numbers<'a> = &'a [(&'a str, f32)];

    fn set(contents: &mut Contents, architecture: &str, numbers: Numbers<'_>) {
        for (key, number) in numbers {
            contents.set(&format!("{architecture}.rope.{key}"), Meta::F32(*number));
        }
    }

    fn yarn(attention_factor: f64, original: f64, fast: f64, slow: f64) -> RopeScaling {
        RopeScaling::Yarn {
            factor: 4.0,
            attention_factor,
            fast,
            slow,
            original_positions: original,
            truncate: true,
        }
    }

    #[test]
    fn every_type_of_scaling_is_recovered() {
        let usual = 0.1 * 4.0f64.ln() + 1.0;
        let linear = || RopeScaling::Linear { factor: 2.5 };
        type Row<'a> = (&'a str, Option<&'a str>, Numbers<'a>, RopeScaling);
        let rows: [Row<'_>; 12] = [
            ("llama", None, &[], RopeScaling::Unscaled),
            (
                "qwen2",
                Some("none"),
                &[("scaling.factor", 2.5)],
                RopeScaling::Unscaled,
            ),
            ("qwen3", Some("linear"), &[], RopeScaling::Unscaled),
            (
                "llama",
                Some("linear"),
                &[("scaling.factor", 1.0)],
                RopeScaling::Unscaled,
            ),
            (
                "llama",
                Some("linear"),
                &[("scaling.factor", 2.5)],
                linear(),
            ),
            ("qwen2", None, &[("scaling.factor", 2.5)], linear()),
            ("qwen3", None, &[("scale_linear", 2.5)], linear()),
            (
                "qwen2",
                Some("yarn"),
                &[("scaling.factor", 4.0)],
                yarn(usual, 128.0, 32.0, 1.0),
            ),
            (
                "llama",
                Some("yarn"),
                &[
                    ("scaling.factor", 4.0),
                    ("scaling.yarn_beta_fast", 16.0),
                    ("scaling.yarn_beta_slow", 0.5),
                    ("scaling.yarn_ext_factor", 1.0),
                    ("scaling.yarn_log_multiplier", 0.0),
                ],
                yarn(usual, 128.0, 16.0, 0.5),
            ),
            (
                "qwen3",
                Some("yarn"),
                &[("scaling.factor", 4.0), ("scaling.yarn_attn_factor", 1.25)],
                yarn(1.25, 128.0, 32.0, 1.0),
            ),
            (
                "qwen3",
                Some("yarn"),
                &[("scaling.factor", 4.0), ("scaling.attn_factor", 0.5)],
                yarn(0.5 * usual, 128.0, 32.0, 1.0),
            ),
            (
                "qwen3",
                Some("yarn"),
                &[
                    ("scaling.factor", 4.0),
                    ("scaling.attn_factor", 1.0),
                    ("scaling.yarn_attn_factor", 1.5),
                ],
                yarn(1.5, 128.0, 32.0, 1.0),
            ),
        ];
        for (architecture, kind, numbers, expected) in rows {
            let directory = fixtures().join(format!("tiny-{architecture}"));
            let mut contents = Contents::converted(&directory);
            set(&mut contents, architecture, numbers);
            if let Some(kind) = kind {
                contents.set(&format!("{architecture}.rope.scaling.type"), kind.into());
            }
            let config = contents.open().unwrap().config;
            assert_eq!(
                config.rope.scaling, expected,
                "{architecture} {kind:?} {numbers:?}"
            );
        }
    }

    #[test]
    fn the_original_context_is_kept() {
        let mut contents = Contents::converted(&fixtures().join("tiny-qwen2"));
        contents.set("qwen2.rope.scaling.type", "yarn".into());
        set(&mut contents, "qwen2", &[("scaling.factor", 4.0)]);
        contents.set("qwen2.rope.scaling.original_context_length", Meta::U32(32));
        let expected = yarn(0.1 * 4.0f64.ln() + 1.0, 32.0, 32.0, 1.0);
        assert_eq!(contents.open().unwrap().config.rope.scaling, expected);
    }

    /// A Llama model with the divisors that llama.cpp's converter computes from a `rope_scaling` of type
    /// `llama3`, in the converter's arithmetic: `f32`, by wavelengths.
    fn with_divisors(factor: f32, low: f32, high: f32, original: f32) -> Contents {
        let mut contents = Contents::converted(&fixtures().join("tiny-llama"));
        let divisor = |pair: usize| {
            let frequency = 1.0 / 1e5f32.powf(2.0 * pair as f32 / 16.0);
            let wavelength = std::f32::consts::TAU / frequency;
            if wavelength < original / high {
                return 1.0;
            }
            if wavelength > original / low {
                return factor;
            }
            let smooth = (original / wavelength - low) / (high - low);
            1.0 / ((1.0 - smooth) / factor + smooth)
        };
        contents.tensors.push(TensorData {
            name: DIVISORS.to_owned(),
            dimensions: vec![8],
            kind: F32,
            data: (0..8)
                .flat_map(|pair| divisor(pair).to_le_bytes())
                .collect(),
        });
        contents
    }

    #[test]
    fn llama_3_is_recovered_from_its_divisors() {
        for factor in [8.0, 32.0, 3.3] {
            let files = with_divisors(factor, 1.0, 4.0, 8192.0).open().unwrap();
            let expected = RopeScaling::Llama3 {
                factor: decimal(factor),
                low_frequency_factor: 1.0,
                high_frequency_factor: 4.0,
                original_positions: 8192.0,
            };
            assert_eq!(files.config.rope.scaling, expected);
            let mut names = files.weights.names();
            assert!(
                names.all(|name| name.starts_with("model.")),
                "divisors are not weights"
            );
        }
    }

    #[test]
    fn unsupported_scalings_are_named() {
        type Change = fn(&mut Contents);
        const YARN: [(&str, f32); 1] = [("scaling.factor", 4.0)];
        fn yarn(contents: &mut Contents, numbers: Numbers<'_>) {
            contents.set("llama.rope.scaling.type", "yarn".into());
            set(contents, "llama", &YARN);
            set(contents, "llama", numbers);
        }
        let rows: [(Change, &str); 14] = [
            (
                |c| c.set("llama.rope.scaling.type", "longrope".into()),
                "rope type `longrope` is not supported; supported: none, linear, yarn, and llama3",
            ),
            (
                |c| c.set("llama.rope.scaling.type", Meta::U32(2)),
                "`llama.rope.scaling.type` is 2, but must be a text",
            ),
            (
                |c| c.set("llama.rope.scaling.type", "yarn".into()),
                "no key `llama.rope.scaling.factor`",
            ),
            (
                |c| set(c, "llama", &[("scaling.factor", -2.0)]),
                "`llama.rope.scaling.factor` is -2, but must be a number above 0",
            ),
            (
                |c| set(c, "llama", &[("scaling.factor", f32::INFINITY)]),
                "`llama.rope.scaling.factor` is inf",
            ),
            (
                |c| set(c, "llama", &[("scaling.alpha", 1000.0)]),
                "`llama.rope.scaling.alpha` is 1000, but must be 0",
            ),
            (
                |c| {
                    set(
                        c,
                        "llama",
                        &[("scaling.factor", 2.0), ("scaling.attn_factor", 1.5)],
                    )
                },
                "`llama.rope.scaling.attn_factor` is 1.5, but must be 1",
            ),
            (
                |c| yarn(c, &[("scaling.yarn_ext_factor", 0.5)]),
                "`llama.rope.scaling.yarn_ext_factor` is 0.5, but must be 1",
            ),
            (
                |c| yarn(c, &[("scaling.yarn_log_multiplier", 0.1)]),
                "`llama.rope.scaling.yarn_log_multiplier` is 0.1, but must be 0",
            ),
            (
                |c| {
                    yarn(
                        c,
                        &[
                            ("scaling.attn_factor", 1.5),
                            ("scaling.yarn_attn_factor", 1.5),
                        ],
                    )
                },
                "`llama.rope.scaling.attn_factor` is 1.5, but must be 1 (all that is supported \
                 beside",
            ),
            (
                |c| {
                    *c = with_divisors(8.0, 1.0, 4.0, 8192.0);
                    yarn(c, &[]);
                },
                "rope type `yarn with the tensor rope_freqs.weight`",
            ),
            (
                |c| {
                    *c = with_divisors(8.0, 1.0, 4.0, 8192.0);
                    set(c, "llama", &[("scaling.factor", 2.0)]);
                },
                "rope type `linear with the tensor rope_freqs.weight`",
            ),
            (
                |c| *c = with_divisors(8.0, 1.0, 4.0, 4096.0),
                "only rope type llama3 with factor 8, low_freq_factor 1, high_freq_factor 4 and \
                 original_max_position_embeddings 8192 can be recovered",
            ),
            (
                |c| {
                    *c = with_divisors(8.0, 1.0, 4.0, 8192.0);
                    c.tensor(DIVISORS).kind = 18;
                },
                "tensor `rope_freqs.weight` is stored as IQ3_XXS",
            ),
        ];
        for (change, expected) in rows {
            let mut contents = Contents::converted(&fixtures().join("tiny-llama"));
            change(&mut contents);
            let message = contents.open().unwrap_err().to_string();
            assert!(message.contains(expected), "{message:?} lacks {expected:?}");
            assert!(message.contains("tiny.gguf"), "{message:?} names no file");
        }
    }
}
