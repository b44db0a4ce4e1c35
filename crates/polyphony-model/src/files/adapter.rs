//! Low-rank adapters on disk, as PEFT writes and reads them: `adapter_config.json` names the model
//! below, and `adapter_model.safetensors` holds the two factors of each projection.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::huggingface::read_json;
use super::safetensors;
use super::weights::Weights;
use crate::error::ModelError;
use crate::lora::{LoraConfig, Projection};

/// The file that makes a directory an adapter.
pub(crate) const CONFIG: &str = "adapter_config.json";

/// The file with the factors.
pub(crate) const WEIGHTS: &str = "adapter_model.safetensors";

/// Adapters on disk, opened but not yet loaded.
#[derive(Debug)]
pub struct Adapter {
    /// Rank, scale and projections.
    pub config: LoraConfig,
    /// The factors, read on demand.
    pub weights: Weights,
}

/// Opens the adapters in a directory; also returns the path of the model below them.
///
/// # Errors
/// If a file is missing or damaged, or the adapters are of a kind that is not supported.
pub(crate) fn open(directory: &Path) -> Result<(Adapter, PathBuf), ModelError> {
    let path = directory.join(CONFIG);
    let config = read_json(&path)?;
    refuse_variants(&config, &path)?;
    let base = config["base_model_name_or_path"].as_str();
    let base = base.ok_or_else(|| ModelError::MissingKey {
        path: path.clone(),
        key: "base_model_name_or_path".to_owned(),
        expected: "the directory of the model below the adapters".to_owned(),
    })?;
    let weights = safetensors::open(&directory.join(WEIGHTS))?;
    let found: BTreeSet<&str> = weights.names().filter_map(projection_name).collect();
    let targets = Projection::ALL.into_iter();
    let config = LoraConfig {
        rank: config["r"].as_u64().unwrap_or_default() as usize,
        alpha: config["lora_alpha"].as_f64().unwrap_or_default(),
        targets: targets.filter(|p| found.contains(p.name())).collect(),
    };
    config.validate()?;
    let base = PathBuf::from(base);
    if !base.exists() {
        return Err(ModelError::Missing {
            path: base,
            expected: format!(
                "the model that {} was trained on: put it there, or correct \
                 `base_model_name_or_path`",
                path.display()
            ),
        });
    }
    if base.join(CONFIG).exists() {
        return Err(unsupported(&path, "base model", "another adapter"));
    }
    Ok((Adapter { config, weights }, base))
}

/// Refuses what PEFT can be told but this crate does not do.
fn refuse_variants(config: &Value, path: &Path) -> Result<(), ModelError> {
    let allowed = [
        ("peft_type", json!("LORA")),
        ("bias", json!("none")),
        ("use_dora", json!(false)),
        ("use_rslora", json!(false)),
        ("fan_in_fan_out", json!(false)),
        ("modules_to_save", json!([])),
        ("rank_pattern", json!({})),
        ("alpha_pattern", json!({})),
    ];
    for (key, supported) in allowed {
        let given = config.get(key).filter(|value| !value.is_null());
        if let Some(given) = given.filter(|given| **given != supported) {
            return Err(ModelError::InvalidValue {
                path: path.to_owned(),
                key: key.to_owned(),
                given: given.to_string(),
                allowed: format!("{supported} (all that is supported)"),
            });
        }
    }
    Ok(())
}

fn unsupported(path: &Path, what: &str, given: &str) -> ModelError {
    ModelError::Unsupported {
        path: path.to_owned(),
        what: what.to_owned(),
        given: given.to_owned(),
        supported: "a whole model; merge its adapters first with `polyphony models merge`"
            .to_owned(),
    }
}

/// The projection that a factor belongs to, by name.
fn projection_name(tensor: &str) -> Option<&str> {
    let module = tensor.strip_suffix(".weight")?;
    let module = module
        .strip_suffix(".lora_A")
        .or_else(|| module.strip_suffix(".lora_B"))?;
    module.rsplit('.').next()
}

/// The `adapter_config.json` of adapters on the model at `base`.
pub(crate) fn config_json(lora: &LoraConfig, base: &Path) -> Value {
    let targets: Vec<&str> = lora.targets.iter().map(|target| target.name()).collect();
    json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base.display().to_string(),
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": 0.0,
        "target_modules": targets,
        "bias": "none",
        "fan_in_fan_out": false,
        "init_lora_weights": true,
        "inference_mode": true,
        "modules_to_save": null,
        "use_dora": false,
        "use_rslora": false,
    })
}

/// PEFT's names of the two factors of a module, such as `model.layers.0.self_attn.q_proj`.
pub(crate) fn factor_names(module: &str) -> [String; 2] {
    ["A", "B"].map(|factor| format!("base_model.model.{module}.lora_{factor}.weight"))
}
