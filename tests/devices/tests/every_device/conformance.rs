//! Tiny models of every architecture and rope type, compared with PyTorch transformers on the same
//! weights.

use std::{collections::BTreeMap, fs, path::Path};

use burn::{
    module::{ModuleVisitor, Param},
    tensor::{Gradients, Tensor},
};
use polyphony_device_tests::{Precision, Target, targets};
use polyphony_model::{
    GenerationConfig, LanguageModel, PackedGroup, PromptGroup, Sampling, StreamKey, generate,
    score_group, sequence_logits,
};
use polyphony_test_support::{fixture, load_on, values};
use safetensors::SafeTensors;
use serde_json::Value;

/// The largest relative difference of the loss that is allowed.
const LOSS_TOLERANCE: f64 = 1e-3;

/// The results of transformers for one model.
struct Expected {
    tensors: Vec<u8>,
    prompt_len: usize,
    norms: BTreeMap<String, f64>,
}

impl Expected {
    fn read(folder: &Path) -> Self {
        let json: Value =
            serde_json::from_str(&fs::read_to_string(folder.join("expected.json")).unwrap())
                .unwrap();
        Self {
            tensors: fs::read(folder.join("expected.safetensors")).unwrap(),
            prompt_len: json["prompt_len"].as_u64().unwrap() as usize,
            norms: serde_json::from_value(json["grad_l2_norms"].clone()).unwrap(),
        }
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        let file = SafeTensors::deserialize(&self.tensors).unwrap();
        file.tensor(name).unwrap().data().to_vec()
    }

    fn floats(&self, name: &str) -> Vec<f32> {
        let bytes = self.bytes(name);
        bytes
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
            .collect()
    }

    fn ids(&self, name: &str) -> Vec<u32> {
        let bytes = self.bytes(name);
        let ids = bytes
            .chunks_exact(8)
            .map(|b| i64::from_le_bytes(b.try_into().unwrap()));
        ids.map(|id| u32::try_from(id).unwrap()).collect()
    }

    /// The two rows of token ids, each as prompt and completion.
    fn rows(&self) -> Vec<(Vec<u32>, Vec<u32>)> {
        let ids = self.ids("input_ids");
        let split = |row: &[u32]| {
            let (prompt, completion) = row.split_at(self.prompt_len);
            (prompt.to_vec(), completion.to_vec())
        };
        ids.chunks_exact(ids.len() / 2).map(split).collect()
    }
}

/// A model on a device, and the results of transformers for it.
struct Case {
    name: String,
    model: LanguageModel,
    expected: Expected,
    precision: Precision,
}

/// Every model of the fixtures that has expected values, on every device.
fn cases() -> Vec<Case> {
    let cases_on = |target: &Target| {
        let mut cases = Vec::new();
        let mut add = |name: String, model: &Path| {
            cases.push(Case {
                model: load_on(&target.device, model),
                expected: Expected::read(&fixture(&name)),
                precision: target.precision,
                name: format!("{name} on {}", target.name),
            });
        };
        for name in [
            "tiny-llama",
            "tiny-qwen2",
            "tiny-qwen3",
            "tiny-qwen3-moe",
            "tiny-gemma3",
        ] {
            add(name.to_owned(), &fixture(name));
        }
        for architecture in ["llama", "qwen2", "qwen3"] {
            for rope in ["default", "linear", "llama3", "yarn"] {
                let model = sharded_model(architecture, rope);
                add(format!("rope/{architecture}/{rope}"), model.path());
            }
        }
        cases
    };
    targets().iter().flat_map(cases_on).collect()
}

/// The weights that the rope types of an architecture share, with the configuration of one rope type.
fn sharded_model(architecture: &str, rope: &str) -> tempfile::TempDir {
    let target = tempfile::tempdir().unwrap();
    let folder = fixture("rope").join(architecture);
    for name in [
        "model.safetensors.index.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ] {
        fs::copy(folder.join(name), target.path().join(name)).unwrap();
    }
    let config = folder.join(rope).join("config.json");
    fs::copy(config, target.path().join("config.json")).unwrap();
    target
}

#[track_caller]
fn assert_close(name: &str, actual: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(actual.len(), expected.len());
    for (index, (actual, expected)) in actual.iter().zip(expected).enumerate() {
        let gap = (actual - expected).abs();
        assert!(
            gap <= tolerance,
            "{name}, {index}: {actual} is not {expected}"
        );
    }
}

#[test]
fn logits_match() {
    for Case {
        name,
        model,
        expected,
        precision,
    } in cases()
    {
        let logits = expected.floats("logits");
        let rows = expected.rows();
        for ((prompt, completion), logits) in rows.iter().zip(logits.chunks(logits.len() / 2)) {
            let ids = [prompt.as_slice(), completion].concat();
            let actual = values(sequence_logits(&model, &ids).unwrap());
            assert_close(&name, &actual, logits, precision.logits);
        }
    }
}

#[test]
fn completion_log_probabilities_match() {
    for Case {
        name,
        model,
        expected,
        precision,
    } in cases()
    {
        let logprobs = expected.floats("completion_logprobs");
        let rows = expected.rows();
        let halves = logprobs.chunks(logprobs.len() / 2);
        for ((prompt, completion), logprobs) in rows.iter().zip(halves) {
            let group = PackedGroup::new(prompt, vec![completion]).unwrap();
            let actual = values(score_group(&model, &group, 1.0).unwrap());
            assert_close(&name, &actual, logprobs, precision.logits);
        }
    }
}

#[test]
fn loss_and_the_norm_of_every_gradient_match() {
    for case in cases() {
        check_loss_and_norms(&case, &case.model.trainable());
    }
}

fn check_loss_and_norms(case: &Case, model: &LanguageModel) {
    let (expected, case, tolerance) = (&case.expected, &case.name, case.precision.norms);
    let rows = expected.rows();
    let terms = rows
        .iter()
        .zip(expected.floats("advantages"))
        .map(|((prompt, completion), a)| {
            let group = PackedGroup::new(prompt, vec![completion]).unwrap();
            score_group(model, &group, 1.0).unwrap().sum() * a
        });
    let total = terms.reduce(|a, b| a + b).unwrap();
    let loss = -total / rows.len() as f64;
    let (actual_loss, expected_loss) = (
        f64::from(loss.clone().inner().into_scalar::<f32>()),
        f64::from(expected.floats("loss")[0]),
    );
    assert!(
        (actual_loss / expected_loss - 1.0).abs() <= LOSS_TOLERANCE,
        "{case}: the loss {actual_loss} is not {expected_loss}"
    );

    let norms = gradient_norms(model, loss.backward());
    let names = |norms: &BTreeMap<String, f64>| norms.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&norms), names(&expected.norms), "{case}");
    for (name, norm) in norms {
        let expected = expected.norms[&name];
        let error = (norm - expected).abs() / expected;
        assert!(
            error <= tolerance,
            "{case}, {name}: {norm} is not {expected}"
        );
    }
}

/// The norm of every weight's gradient, by Hugging Face name.
fn gradient_norms(model: &LanguageModel, grads: Gradients) -> BTreeMap<String, f64> {
    struct Norms {
        grads: Gradients,
        in_order: Vec<f64>,
    }
    impl ModuleVisitor for Norms {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let gradient = param.val().grad(&self.grads).expect("every weight matters");
            let squares = values(gradient).into_iter();
            let sum: f64 = squares.map(|value| f64::from(value).powi(2)).sum();
            self.in_order.push(sum.sqrt());
        }
    }
    let mut norms = Norms {
        grads,
        in_order: Vec::new(),
    };
    model.visit_weights(&mut norms);
    let names = model.named_weights().into_iter().map(|(spec, _)| spec.name);
    names.zip(norms.in_order).collect()
}

#[test]
fn greedy_tokens_match() {
    for Case {
        name,
        model,
        expected,
        ..
    } in cases()
    {
        let greedy = expected.ids("greedy");
        let (prompt, continuation) = greedy.split_at(expected.prompt_len);
        assert_eq!(
            prompt,
            expected.rows()[0].0,
            "{name}: the fixture continues the first row's prompt"
        );
        let group = PromptGroup {
            prompt,
            keys: vec![StreamKey::default()],
            prefix_group: 0,
        };
        let config = GenerationConfig {
            sampling: Sampling::greedy(),
            max_new_tokens: continuation.len(),
            stop_tokens: vec![],
        };
        let answers = generate(&model, &[group], &config, &mut |_| ()).unwrap();
        assert_eq!(answers[0][0].tokens, continuation, "{name}");
    }
}
