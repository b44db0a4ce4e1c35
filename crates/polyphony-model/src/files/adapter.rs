//! Low-rank adapters on disk, as PEFT writes and reads them: `adapter_config.json` names the base
//! model, and `adapter_model.safetensors` holds the two factors of each projection.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::read::read_json;
use super::weights::Weights;
use crate::config::Keys;
use crate::error::ModelError;
use crate::lora::{LoraConfig, Projection};

/// The file that marks a directory as an adapter.
pub(crate) const CONFIG: &str = "adapter_config.json";

/// The file with the factors.
pub(crate) const WEIGHTS: &str = "adapter_model.safetensors";

/// The key for the base model.
const BASE: &str = "base_model_name_or_path";

/// Keys that are read elsewhere, or that do not change what trained adapters compute. `target_modules` is
/// not needed: the names of the tensors show which projections have an adapter.
const HARMLESS: [&str; 13] = [
    BASE,
    "auto_mapping",
    "exclude_modules",
    "inference_mode",
    "lora_alpha",
    "lora_dropout",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "r",
    "revision",
    "target_modules",
    "task_type",
];

/// PEFT's defaults for `r` and `lora_alpha`.
const PEFT_RANK: usize = 8;
const PEFT_ALPHA: f64 = 8.0;

/// Adapters on disk, opened but not yet loaded.
#[derive(Debug)]
pub struct Adapter {
    /// Rank, scale and projections.
    pub config: LoraConfig,
    /// The factors, read on demand.
    pub weights: Weights,
}

/// Opens the adapters in a directory; also returns the path of their base model.
///
/// # Errors
/// If a file is missing or damaged, or the adapters are of a kind that is not supported.
pub(crate) fn open(directory: &Path) -> Result<(Adapter, PathBuf), ModelError> {
    let path = directory.join(CONFIG);
    let config = read_json(&path, "the configuration of adapters")?;
    let keys = Keys {
        object: &config,
        path: &path,
    };
    refuse_variants(&keys)?;
    let rank = keys.optional_size("r")?.unwrap_or(PEFT_RANK);
    let alpha = keys.positive("lora_alpha")?.unwrap_or(PEFT_ALPHA);
    let base = existing_base(&keys)?;
    let weights_path = directory.join(WEIGHTS);
    let weights = Weights::open(&weights_path)?;
    let config = LoraConfig {
        rank,
        alpha,
        targets: targets(&weights, &weights_path)?,
    };
    Ok((Adapter { config, weights }, base))
}

/// Refuses settings that this crate does not implement, including those of later versions of PEFT.
fn refuse_variants(keys: &Keys<'_>) -> Result<(), ModelError> {
    for (key, value) in keys.object.as_object().into_iter().flatten() {
        let choices: &[Value] = match key.as_str() {
            "peft_type" => &[json!("LORA")],
            "bias" => &[json!("none")],
            // Other methods change the base model's weights before training.
            "init_lora_weights" => &[json!(true), json!(false), json!("gaussian")],
            harmless if HARMLESS.contains(&harmless) => continue,
            _ => &[],
        };
        if is_empty(value) || choices.contains(value) {
            continue;
        }
        let allowed = match choices {
            [] => "absent, false or empty".to_owned(),
            choices => {
                let choices: Vec<String> = choices.iter().map(Value::to_string).collect();
                choices.join(" or ")
            }
        };
        let allowed = format!("{allowed} (plain LoRA is all that is supported)");
        return Err(keys.invalid(key, value.clone(), allowed));
    }
    Ok(())
}

/// Whether a value switches its key's feature off.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Bool(true) | Value::Number(_) => false,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(object) => object.is_empty(),
    }
}

/// The path of the base model, after a check that the path exists.
fn existing_base(keys: &Keys<'_>) -> Result<PathBuf, ModelError> {
    let name = keys.get(BASE).and_then(Value::as_str);
    let name = name.ok_or_else(|| ModelError::MissingKey {
        path: keys.path.to_owned(),
        key: BASE.to_owned(),
        expected: "the directory of the adapters' base model".to_owned(),
    })?;
    let base = PathBuf::from(name);
    if !base.exists() {
        let help = if is_repository(name) {
            format!(
                "if it is the repository {name} on the Hugging Face hub, download that and put the \
                 path of its folder into `{BASE}`"
            )
        } else {
            format!("put it there, or correct `{BASE}`")
        };
        return Err(ModelError::Missing {
            path: base,
            expected: format!(
                "the model that {} was trained on: {help}",
                keys.path.display()
            ),
        });
    }
    if base.join(CONFIG).exists() {
        return Err(unsupported(keys.path, "base model", "another adapter"));
    }
    Ok(base)
}

/// Whether a text looks like `organization/name`, the form of repository names on the hub.
fn is_repository(text: &str) -> bool {
    let word = |part: &str| {
        part.starts_with(|first: char| first.is_ascii_alphanumeric())
            && part
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
    };
    let parts = text.split_once('/');
    parts.is_some_and(|(organization, name)| word(organization) && word(name))
}

/// The projections that have factors.
fn targets(weights: &Weights, path: &Path) -> Result<Vec<Projection>, ModelError> {
    let found: BTreeSet<&str> = weights.names().filter_map(projection_name).collect();
    let has_factors = |projection: &Projection| found.contains(projection.name());
    let targets: Vec<_> = Projection::ALL.into_iter().filter(has_factors).collect();
    if targets.is_empty() {
        return Err(ModelError::MissingTensor {
            path: path.to_owned(),
            tensor: format!(
                "*.{}.lora_A.weight",
                Projection::ALL.map(Projection::name).join("|")
            ),
        });
    }
    Ok(targets)
}

pub(super) fn unsupported(path: &Path, what: &str, given: &str) -> ModelError {
    ModelError::Unsupported {
        path: path.to_owned(),
        what: what.to_owned(),
        given: given.to_owned(),
        supported: "a whole model; merge its adapters into the weights first".to_owned(),
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

/// The `adapter_config.json` of adapters for the model at `base`.
pub(crate) fn config_json(lora: &LoraConfig, base: &Path) -> Value {
    let targets: Vec<&str> = lora.targets.iter().map(|target| target.name()).collect();
    json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        BASE: base.display().to_string(),
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
