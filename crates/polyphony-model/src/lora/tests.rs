//! Adapters on the tiny models: what they change, and which ones are refused.

use std::path::{Path, PathBuf};

use burn::{
    module::{Module as _, ModuleMapper, Param},
    tensor::{DType, Distribution},
};

use super::*;
use crate::{LanguageModel, ModelFiles, Precision, architectures::TINY_MODELS, sequence_logits};

/// The product with a merged weight is rounded differently from the sum of two products.
const LOGIT_TOLERANCE: f32 = 1e-5;

fn path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/tiny-qwen3")
}

fn tiny() -> LanguageModel {
    LanguageModel::load(&ModelFiles::open(&path()).unwrap(), &Device::flex()).unwrap()
}

fn logits(model: &LanguageModel) -> Vec<f32> {
    let logits = sequence_logits(model, &[5, 80, 130, 7]).unwrap();
    logits.cast(DType::F32).into_data().try_into_vec().unwrap()
}

/// Changes every trainable weight, as training would.
struct Noise;

impl ModuleMapper for Noise {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if !param.clone().train().is_require_grad() {
            return param;
        }
        param.map(|tensor| {
            let noise = tensor.random_like(Distribution::Normal(0.0, 0.05));
            tensor + noise
        })
    }
}

#[test]
fn new_adapters_change_nothing_and_trained_ones_merge_to_the_same_model() {
    let plain = tiny();
    let config = LoraConfig {
        rank: 3,
        alpha: 6.0,
        targets: vec![Projection::Query, Projection::Down],
    };
    let mut model = plain.clone().with_lora(&config, 9, 0).unwrap();
    assert_eq!(model.lora(), Some(&config));
    assert_eq!(logits(&model), logits(&plain));

    model.map_weights(&mut Noise);
    let adapted = logits(&model);
    assert_ne!(adapted, logits(&plain));
    let merged = model.merged();
    assert_eq!(merged.lora(), None);
    assert_eq!(merged.named_weights().len(), plain.named_weights().len());
    for (logit, expected) in logits(&merged).iter().zip(&adapted) {
        assert!(
            (logit - expected).abs() <= LOGIT_TOLERANCE,
            "{logit} is not {expected}"
        );
    }
}

/// Rounding the sum of weight and adapter differs from the sum of rounded products, but both are close.
#[test]
fn adapters_have_their_effect_in_bf16() {
    let mut model = tiny().with_lora(&LoraConfig::default(), 9, 0).unwrap();
    model.map_weights(&mut Noise);
    let expected = logits(&model);
    let without = logits(&tiny());
    let Ok(rounded) = model.with_precision(Precision::Bf16) else {
        return;
    };
    let merged = rounded.clone().merged();
    for model in [rounded, merged] {
        let gap = |logits: &[f32]| {
            let actual = self::logits(&model);
            let gaps = actual.iter().zip(logits).map(|(a, b)| (a - b).abs());
            gaps.sum::<f32>() / logits.len() as f32
        };
        assert!(gap(&expected) < 0.2 * gap(&without), "{}", gap(&expected));
    }
}

#[test]
fn the_seed_decides_the_first_factor() {
    let first = |seed| {
        let model = tiny().with_lora(&LoraConfig::default(), seed, 0).unwrap();
        let weights = model.named_weights().into_iter();
        let factors = weights.filter(|(spec, _)| spec.name.ends_with(".adapter.a"));
        let values = factors.map(|(_, weight)| weight.into_data().try_into_vec().unwrap());
        values.collect::<Vec<Vec<f32>>>()
    };
    assert_eq!(first(1), first(1));
    assert_ne!(first(1), first(2));
    let (one, two) = (&first(1)[0], &first(1)[7]);
    assert_ne!(one, two, "each projection draws its own");
    let bound = 1.0 / (tiny().config().hidden_size as f32).sqrt();
    assert!(one.iter().all(|value| value.abs() <= bound));
    assert!(one.iter().any(|value| value.abs() > bound / 2.0));
}

#[test]
fn settings_out_of_range_are_named() {
    let check = |config: LoraConfig, expected: &str| {
        let message = config.validate().unwrap_err().to_string();
        assert_eq!(message, expected);
    };
    let default = LoraConfig::default;
    check(
        LoraConfig {
            rank: 0,
            ..default()
        },
        "`rank` is 0, but must be at least 1",
    );
    for alpha in [0.0, -1.0, f64::NAN] {
        let expected = format!("`alpha` is {alpha}, but must be a positive number");
        check(LoraConfig { alpha, ..default() }, &expected);
    }
    check(
        LoraConfig {
            targets: vec![],
            ..default()
        },
        "`targets` is empty, but must be a list of projections",
    );
    let targets = vec![Projection::Key, Projection::Up, Projection::Key];
    check(
        LoraConfig {
            targets,
            ..default()
        },
        "`targets` is a list with Key twice, but must be a list of different projections",
    );
}

#[test]
fn a_model_with_adapters_accepts_no_others() {
    let model = tiny().with_lora(&LoraConfig::default(), 1, 0).unwrap();
    let message = model
        .with_lora(&LoraConfig::default(), 1, 0)
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("already has low-rank adapters: merge them"),
        "{message}"
    );
}

/// Adapters of a trained model, saved in a new folder.
fn saved() -> (tempfile::TempDir, LanguageModel) {
    let folder = tempfile::tempdir().unwrap();
    let config = LoraConfig {
        rank: 2,
        alpha: 3.0,
        targets: vec![Projection::Value, Projection::Gate],
    };
    let mut model = tiny().with_lora(&config, 9, 0).unwrap();
    model.map_weights(&mut Noise);
    let assets = ModelFiles::open(&path()).unwrap().assets;
    model.save(&folder.path().join("agent"), &assets).unwrap();
    (folder, model)
}

#[test]
fn saved_adapters_are_the_same_when_they_are_read_again() {
    let (folder, model) = saved();
    let directory = folder.path().join("agent");
    assert!(
        !directory.join("model.safetensors").exists(),
        "the base model's weights are not copied"
    );
    let files = ModelFiles::open(&directory).unwrap();
    let again = LanguageModel::load(&files, &Device::flex()).unwrap();
    assert_eq!(again.lora(), model.lora());
    assert_eq!(logits(&again), logits(&model));

    let merged = folder.path().join("merged");
    again.merged().save(&merged, &files.assets).unwrap();
    let whole = LanguageModel::load(&ModelFiles::open(&merged).unwrap(), &Device::flex()).unwrap();
    assert_eq!(whole.lora(), None);
    for (logit, expected) in logits(&whole).iter().zip(logits(&model)) {
        assert!(
            (logit - expected).abs() <= LOGIT_TOLERANCE,
            "{logit} is not {expected}"
        );
    }
}

/// What PEFT 0.21.2 writes for `LoraConfig(r=4, target_modules=["q_proj"],
/// task_type="CAUSAL_LM", lora_dropout=0.1)`.
const PLAIN: &str = r#"{
  "alora_invocation_tokens": null,
  "alpha_pattern": {},
  "arrow_config": null,
  "auto_mapping": null,
  "base_model_name_or_path": "x",
  "bias": "none",
  "corda_config": null,
  "ensure_weight_tying": false,
  "eva_config": null,
  "exclude_modules": null,
  "fan_in_fan_out": false,
  "inference_mode": false,
  "init_lora_weights": true,
  "kasa_config": null,
  "layer_replication": null,
  "layers_pattern": null,
  "layers_to_transform": null,
  "loftq_config": {},
  "lora_alpha": 8,
  "lora_bias": false,
  "lora_dropout": 0.1,
  "lora_ga_config": null,
  "megatron_config": null,
  "megatron_core": "megatron.core",
  "modules_to_save": null,
  "monteclora_config": null,
  "peft_type": "LORA",
  "peft_version": "0.21.2",
  "qalora_group_size": 16,
  "r": 4,
  "rank_pattern": {},
  "revision": null,
  "target_modules": [
    "q_proj"
  ],
  "target_parameters": null,
  "task_type": "CAUSAL_LM",
  "trainable_token_indices": null,
  "use_bdlora": null,
  "use_dora": false,
  "use_qalora": false,
  "use_rslora": false,
  "velora_config": null
}"#;

#[test]
fn what_peft_writes_for_plain_adapters_is_accepted_and_absent_keys_take_its_defaults() {
    let mut plain: serde_json::Value = serde_json::from_str(PLAIN).unwrap();
    plain["base_model_name_or_path"] = path().to_str().unwrap().into();
    let bare = serde_json::json!({"base_model_name_or_path": path()});
    let mut gaussian = bare.clone();
    gaussian["init_lora_weights"] = "gaussian".into();
    for (config, rank, alpha) in [(plain, 4, 8.0), (bare, 8, 8.0), (gaussian, 8, 8.0)] {
        let (folder, _) = saved();
        let directory = folder.path().join("agent");
        std::fs::write(directory.join("adapter_config.json"), config.to_string()).unwrap();
        let adapter = ModelFiles::open(&directory).unwrap().adapter.unwrap();
        let expected = LoraConfig {
            rank,
            alpha,
            targets: vec![Projection::Value, Projection::Gate],
        };
        assert_eq!(adapter.config, expected, "{config}");
    }
}

#[test]
fn weights_without_factors_are_named() {
    let (folder, _) = saved();
    let directory = folder.path().join("agent");
    let weights = directory.join("adapter_model.safetensors");
    std::fs::copy(path().join("model.safetensors"), weights).unwrap();
    let message = ModelFiles::open(&directory).unwrap_err().to_string();
    let expected = "adapter_model.safetensors holds no tensor `*.q_proj|k_proj|";
    assert!(message.contains(expected), "{message}");
}

#[test]
fn adapters_on_disk_that_cannot_be_used_are_explained() {
    type Change = fn(&mut serde_json::Value);
    let rows: [(Change, &str); 12] = [
        (
            |c| c["peft_type"] = "IA3".into(),
            "`peft_type` is \"IA3\", but must be \"LORA\"",
        ),
        (
            |c| c["use_dora"] = true.into(),
            "adapter_config.json: `use_dora` is true, but must be absent, false or empty (plain",
        ),
        (
            |c| c["layer_replication"] = serde_json::json!([[0, 2], [1, 3]]),
            "adapter_config.json: `layer_replication` is [[0,2],[1,3]], but must be absent",
        ),
        (
            |c| c["init_lora_weights"] = "pissa_niter_4".into(),
            "adapter_config.json: `init_lora_weights` is \"pissa_niter_4\", but must be true or \
             false or \"gaussian\" (plain LoRA",
        ),
        (
            |c| c["of_a_later_version"] = 1.into(),
            "adapter_config.json: `of_a_later_version` is 1, but must be absent",
        ),
        (
            |c| c["bias"] = "all".into(),
            "`bias` is \"all\", but must be \"none\"",
        ),
        (
            |c| c["r"] = 0.into(),
            "adapter_config.json: `r` is 0, but must be a whole number",
        ),
        (|c| c["r"] = 3.into(), "has shape [2, "),
        (
            |c| c["lora_alpha"] = 0.into(),
            "adapter_config.json: `lora_alpha` is 0, but must be a number above 0",
        ),
        (
            |c| c["base_model_name_or_path"] = "/no/where".into(),
            "adapter_config.json was trained on: put it there, or correct `base_model_name_or_path`",
        ),
        (
            |c| c["base_model_name_or_path"] = "Qwen/Qwen2.5-0.5B".into(),
            "adapter_config.json was trained on: if it is the repository Qwen/Qwen2.5-0.5B on \
             the Hugging Face hub, download that and put the path of its folder into \
             `base_model_name_or_path`",
        ),
        (
            |c| {
                c.as_object_mut().unwrap().remove("base_model_name_or_path");
            },
            "has no key `base_model_name_or_path`",
        ),
    ];
    for (change, expected) in rows {
        let (folder, _) = saved();
        let path = folder.path().join("agent/adapter_config.json");
        let text = std::fs::read_to_string(&path).unwrap();
        let mut config = serde_json::from_str(&text).unwrap();
        change(&mut config);
        std::fs::write(&path, config.to_string()).unwrap();
        let opened = ModelFiles::open(&folder.path().join("agent"));
        let loaded = opened.and_then(|files| LanguageModel::load(&files, &Device::flex()));
        let message = loaded.unwrap_err().to_string();
        assert!(message.contains(expected), "{message}\nlacks: {expected}");
    }
}

#[test]
fn an_adapter_on_an_adapter_is_refused() {
    let (folder, _) = saved();
    let below = folder.path().join("agent");
    let above = folder.path().join("above");
    std::fs::create_dir(&above).unwrap();
    for name in ["adapter_config.json", "adapter_model.safetensors"] {
        std::fs::copy(below.join(name), above.join(name)).unwrap();
    }
    let config = std::fs::read_to_string(above.join("adapter_config.json")).unwrap();
    let mut config: serde_json::Value = serde_json::from_str(&config).unwrap();
    config["base_model_name_or_path"] = below.to_str().unwrap().into();
    std::fs::write(above.join("adapter_config.json"), config.to_string()).unwrap();
    let message = ModelFiles::open(&above).unwrap_err().to_string();
    assert!(
        message.contains("merge its adapters into the weights first"),
        "{message}"
    );
}

/// The number of scalars of every weight, in ascending order.
fn scalars(weights: Vec<(crate::TensorSpec, Tensor<1>)>) -> Vec<u64> {
    let weights = weights.into_iter();
    let mut scalars: Vec<u64> = weights.map(|(_, weight)| weight.dims()[0] as u64).collect();
    scalars.sort_unstable();
    scalars
}

fn listed(sizes: Vec<crate::WeightSize>) -> Vec<u64> {
    let each = |size: crate::WeightSize| (0..size.weights).map(move |_| size.scalars);
    let mut scalars: Vec<u64> = sizes.into_iter().flat_map(each).collect();
    scalars.sort_unstable();
    scalars
}

#[test]
fn weights_are_counted_without_loading_them() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    for name in TINY_MODELS {
        let files = ModelFiles::open(&fixtures.join(name)).unwrap();
        let model = LanguageModel::load(&files, &Device::flex()).unwrap();
        let expected = scalars(model.named_weights());
        let config = model.config();
        assert_eq!(
            config.weight_count(),
            expected.iter().sum::<u64>(),
            "{name}"
        );
        assert_eq!(listed(config.weight_sizes()), expected, "{name}");
        for targets in [
            Projection::ALL.to_vec(),
            vec![Projection::Key, Projection::Down],
        ] {
            let lora = LoraConfig {
                targets,
                ..LoraConfig::default()
            };
            let adapted = model.clone().with_lora(&lora, 1, 0).unwrap();
            let expected = scalars(adapted.trainable_weights());
            let added = config.adapter_weight_count(&lora);
            assert_eq!(added, expected.iter().sum::<u64>(), "{name}");
            assert_eq!(
                listed(config.adapter_weight_sizes(&lora)),
                expected,
                "{name}"
            );
        }
    }
}
