//! Adapters on the tiny models: what they change, and what they are refused.

use std::path::Path;

use burn::{
    module::{Module as _, ModuleMapper, Param},
    tensor::Distribution,
};

use super::*;
use crate::{LanguageModel, ModelFiles, sequence_logits};

/// Rounding of a merged weight against the sum of two products.
const LOGIT_TOLERANCE: f32 = 1e-5;

fn tiny() -> LanguageModel {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/tiny-qwen3");
    LanguageModel::load(&ModelFiles::open(&path).unwrap(), &Device::flex()).unwrap()
}

fn logits(model: &LanguageModel) -> Vec<f32> {
    let logits = sequence_logits(model, &[5, 80, 130, 7]).unwrap();
    logits.into_data().try_into_vec().unwrap()
}

/// Moves every weight that learns, as training would.
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
    for (own, expected) in logits(&merged).iter().zip(&adapted) {
        assert!(
            (own - expected).abs() <= LOGIT_TOLERANCE,
            "{own} is not {expected}"
        );
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
fn settings_that_cannot_work_are_named() {
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
fn a_model_with_adapters_takes_no_others() {
    let model = tiny().with_lora(&LoraConfig::default(), 1, 0).unwrap();
    let message = model
        .with_lora(&LoraConfig::default(), 1, 0)
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("has low-rank adapters already: merge them"),
        "{message}"
    );
}
