//! Packed scoring compared with scoring the responses one by one, and inputs that are refused.

use std::path::Path;

use std::collections::HashSet;

use burn::{
    module::{ModuleMapper, Param},
    tensor::{Device, TensorData, activation::log_softmax},
};
use proptest::prelude::*;

use super::*;
use crate::{
    LoraConfig, ModelFiles, Precision, TensorSpec,
    architectures::TINY_MODELS,
    kernels::{Weight, host, thread_pool},
    network::attention::PackedAttention,
};

/// The largest difference of a log-probability, in nats.
const LOGPROB_TOLERANCE: f32 = 1e-5;
/// The largest distance between two gradients of a weight, relative to their norm.
const GRADIENT_TOLERANCE: f64 = 1e-4;

fn tiny() -> LanguageModel {
    fixture("tiny-llama")
}

fn fixture(name: &str) -> LanguageModel {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fixtures")
        .join(name);
    LanguageModel::load(&ModelFiles::open(&path).unwrap(), &Device::flex()).unwrap()
}

/// Log-probabilities of a group, and the gradients of their sum weighted by `weights`.
fn score(
    model: &LanguageModel,
    group: &PackedGroup<'_>,
    temperature: f32,
    weights: &[f32],
    activations: Activations,
) -> (Vec<f32>, Vec<Vec<f32>>) {
    let scored = ScoredGroup::new(model, group, temperature, activations).unwrap();
    let logprobs = scored.logprobs().to_vec();
    let gradients = scored.backward(weights.to_vec()).into_vec().into_iter();
    let gradients = gradients.map(|gradient| {
        let gradient = gradient.expect("every weight matters");
        assert!(
            host(&gradient).is_some(),
            "gradients are plain tensors, not recorded ones"
        );
        to_host(gradient)
    });
    (logprobs, gradients.collect())
}

#[track_caller]
fn assert_same_gradients(actual: &[Vec<f32>], expected: &[Vec<f32>]) {
    assert_eq!(actual.len(), expected.len());
    for (index, (actual, expected)) in actual.iter().zip(expected).enumerate() {
        let distance = norm(actual.iter().zip(expected).map(|(a, b)| a - b));
        let expected_norm = norm(expected.iter().copied());
        assert!(
            distance <= GRADIENT_TOLERANCE * expected_norm,
            "weight {index}: {distance} of {expected_norm}"
        );
    }
}

fn norm(values: impl Iterator<Item = f32>) -> f64 {
    values.map(|v| f64::from(v).powi(2)).sum::<f64>().sqrt()
}

fn assert_close(actual: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(actual.len(), expected.len());
    for (a, b) in actual.iter().zip(expected) {
        assert!((a - b).abs() <= tolerance, "{a} is not {b}");
    }
}

fn ids(tokens: std::ops::Range<usize>) -> impl Strategy<Value = Vec<u32>> {
    prop::collection::vec(0u32..256, tokens)
}

#[test]
fn every_weight_has_an_entry_even_if_the_objective_ignores_the_layers() {
    for name in TINY_MODELS {
        let model = fixture(name);
        let (ids, positions) = ([5, 80, 130], [0, 1, 2]);
        let attention = || PackedAttention::new(2, &[1]);
        let inputs = model.layer_inputs(&ids, &positions, &mut attention());
        let objective = |_: Tensor<2>, head: &Weight| head.tensor.clone().sum();
        let gradients = model.gradients(&ids, &positions, inputs, &mut attention(), objective);
        let gradients = gradients.into_vec();
        let weights = model.named_weights();
        assert_eq!(gradients.len(), weights.len(), "{name}");
        let is_head = |spec: &TensorSpec| match model.config().tied_head {
            true => spec.name.contains("embed_tokens"),
            false => spec.name.contains("lm_head"),
        };
        for ((spec, _), gradient) in weights.iter().zip(gradients) {
            assert_eq!(gradient.is_some(), is_head(spec), "{name}: {}", spec.name);
        }
    }
}

/// The work is split by outputs, never by the dimension that is summed.
#[test]
fn gradients_are_the_same_with_any_number_of_threads() {
    let prompt: Vec<u32> = (0..10).map(|i| i * 23 % 256).collect();
    // Enough tokens for products that are shared between threads.
    let responses: Vec<Vec<u32>> = (0..8)
        .map(|response| (0..50).map(|i| (i * 89 + response * 31) % 256).collect())
        .collect();
    let slices = responses.iter().map(Vec::as_slice).collect();
    let group = PackedGroup::new(&prompt, slices).unwrap();
    let weights: Vec<f32> = (0..400)
        .map(|i| ((i * 37) % 19) as f32 / 9.0 - 1.0)
        .collect();
    for name in TINY_MODELS {
        let model = fixture(name);
        let rounded = model.clone().with_precision(Precision::Bf16).ok();
        for model in [Some(model), rounded].into_iter().flatten() {
            for activations in [Activations::Keep, Activations::Recompute] {
                let [one, two, five] = [1, 2, 5].map(|threads| {
                    thread_pool(threads).install(|| {
                        let scored = ScoredGroup::new(&model, &group, 0.7, activations).unwrap();
                        let logprobs = scored.logprobs().to_vec();
                        let gradients = scored.backward(weights.clone()).into_vec().into_iter();
                        (
                            logprobs,
                            gradients.flatten().map(to_host).collect::<Vec<_>>(),
                        )
                    })
                });
                let what = format!("{name}, {:?}, {activations:?}", model.precision());
                assert!(one == two, "one thread and two differ: {what}");
                assert!(one == five, "one thread and five differ: {what}");
            }
        }
    }
}

/// Gradients in bfloat16 have the direction of those in 32-bit floats, for every architecture, with and without
/// adapters, whatever the forward pass keeps.
#[test]
fn gradients_in_bf16_have_the_same_direction() {
    if Precision::Bf16.check(&Device::flex()).is_err() {
        return;
    }
    let (prompt, responses) = (
        [5, 80, 130, 7, 9],
        [[11, 200, 3, 77, 41, 8], [90, 14, 60, 22, 5, 30]],
    );
    let slices = responses.iter().map(<[u32; 6]>::as_slice).collect();
    let group = PackedGroup::new(&prompt, slices).unwrap();
    let weights: Vec<f32> = (0..12)
        .map(|i| ((i * 37 + 11) % 19) as f32 / 9.0 - 0.7)
        .collect();
    for name in TINY_MODELS {
        let plain = fixture(name);
        let mut adapted = plain
            .clone()
            .with_lora(&LoraConfig::default(), 3, 0)
            .unwrap();
        adapted.map_weights(&mut Spread);
        for model in [plain, adapted] {
            let rounded = model.clone().with_precision(Precision::Bf16).unwrap();
            for activations in [Activations::Keep, Activations::Recompute] {
                let [exact, rounded] = [&model, &rounded].map(|model| {
                    let scored = ScoredGroup::new(model, &group, 1.0, activations).unwrap();
                    let gradients = scored.backward(weights.clone()).into_vec().into_iter();
                    let specs = model.named_weights().into_iter();
                    // Frozen weights and experts that no token uses have no gradient.
                    let flat = gradients.zip(specs).flat_map(|(gradient, (spec, _))| {
                        let count = spec.shape.iter().product();
                        gradient.map_or_else(|| vec![0.0; count], to_host)
                    });
                    flat.collect::<Vec<f32>>()
                });
                let dot = |a: &[f32], b: &[f32]| -> f64 {
                    a.iter()
                        .zip(b)
                        .map(|(a, b)| f64::from(*a) * f64::from(*b))
                        .sum()
                };
                let cosine =
                    dot(&exact, &rounded) / (dot(&exact, &exact) * dot(&rounded, &rounded)).sqrt();
                let has_adapters = model.lora().is_some();
                assert!(
                    cosine > 0.995,
                    "{name}, adapters {has_adapters}, {activations:?}: {cosine}"
                );
            }
        }
    }
}

/// Makes zeros nonzero, so that both factors of an adapter have a gradient.
struct Spread;

impl ModuleMapper for Spread {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|weight| {
            let shape = weight.shape();
            let count = shape.num_elements();
            let noise = (0..count).map(|i| ((i * 31 % 17) as f32 - 8.0) / 400.0);
            let noise = TensorData::new(noise.collect::<Vec<f32>>(), shape);
            weight.clone() + Tensor::from_data(noise, &weight.device())
        })
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_packed_group_equals_its_responses_one_by_one(
        prompt in ids(1..21),
        responses in prop::collection::vec(ids(1..16), 1..6),
        temperature in prop::sample::select(vec![0.7f32, 1.0, 1.3]),
    ) {
        let model = tiny();
        // Weights that vary from token to token, so that no mix-up cancels out.
        let tokens: usize = responses.iter().map(Vec::len).sum();
        let weights: Vec<f32> = (0..tokens).map(|i| ((i * 37 + 11) % 19) as f32 / 9.0 - 0.7).collect();
        let slices: Vec<&[u32]> = responses.iter().map(Vec::as_slice).collect();
        let group = PackedGroup::new(&prompt, slices).unwrap();
        let keep = Activations::Keep;
        let (together, gradients) = score(&model, &group, temperature, &weights, keep);

        let (mut apart, mut sums): (Vec<f32>, Vec<Vec<f32>>) = Default::default();
        for response in &responses {
            let weights = &weights[apart.len()..][..response.len()];
            let alone = PackedGroup::new(&prompt, vec![response]).unwrap();
            let (logprobs, gradients) = score(&model, &alone, temperature, weights, keep);
            apart.extend(logprobs);
            sums.resize_with(gradients.len(), Vec::new);
            for (sum, gradient) in sums.iter_mut().zip(gradients) {
                sum.resize(gradient.len(), 0.0);
                sum.iter_mut().zip(gradient).for_each(|(sum, value)| *sum += value);
            }
        }
        assert_close(&together, &apart, LOGPROB_TOLERANCE);
        assert_same_gradients(&gradients, &sums);
        let recomputed = score(&model, &group, temperature, &weights, Activations::Recompute);
        assert_close(&recomputed.0, &together, LOGPROB_TOLERANCE);
        assert_same_gradients(&recomputed.1, &gradients);
    }
}

#[test]
fn log_probabilities_follow_from_the_logits_and_the_temperature() {
    let model = tiny();
    let ids: Vec<u32> = (0..30).map(|i| (i * 41 + 7) % 256).collect();
    let (prompt, response) = ids.split_at(9);
    for temperature in [0.5, 1.0, 2.0] {
        let logits = sequence_logits(&model, &ids).unwrap();
        let table = to_host(log_softmax(logits / temperature, 1));
        let expected: Vec<f32> = response
            .iter()
            .enumerate()
            .map(|(i, &id)| table[(prompt.len() + i - 1) * 256 + id as usize])
            .collect();
        let group = PackedGroup::new(prompt, vec![response]).unwrap();
        let logprobs = to_host(score_group(&model, &group, temperature).unwrap());
        assert_close(&logprobs, &expected, LOGPROB_TOLERANCE);
    }
}

#[test]
fn a_sequence_is_scored_from_its_second_token_on() {
    let model = tiny();
    let ids = [5, 6, 7, 8];
    let logprobs = sequence_logprobs(&model, &ids).unwrap();
    let table = to_host(log_softmax(sequence_logits(&model, &ids).unwrap(), 1));
    let expected = [1, 2, 3].map(|i| table[(i - 1) * 256 + ids[i] as usize]);
    assert_close(&logprobs, &expected, LOGPROB_TOLERANCE);
    for short in [&[][..], &[5]] {
        assert!(sequence_logprobs(&model, short).unwrap().is_empty());
    }
}

#[test]
fn inputs_that_cannot_be_scored_are_named() {
    let model = tiny();
    let (half, more): (Vec<u32>, Vec<u32>) = (vec![1; 64], vec![1; 65]);
    let long = vec![1; 129];
    type Row<'a> = (&'a [u32], &'a [&'a [u32]], &'a str);
    let rows: &[Row<'_>] = &[
        (&[], &[&[1]], "the prompt is empty"),
        (&[1], &[], "there is no response to score"),
        (&[1], &[&[2], &[]], "there is no response to score"),
        (
            &[1, 256],
            &[&[2]],
            "token id 256 is outside the vocabulary of 256 entries (0 to 255)",
        ),
        (&[1], &[&[2], &[3, 700]], "token id 700 is outside"),
        (&half, &[&[1], &more], "129"),
        (&long, &[&[1]], "130"),
    ];
    for (prompt, responses, expected) in rows {
        let scored = PackedGroup::new(prompt, responses.to_vec())
            .and_then(|group| score_group(&model, &group, 1.0));
        let message = scored.unwrap_err().to_string();
        assert!(message.contains(expected), "{message}\nlacks: {expected}");
    }
    let fits = PackedGroup::new(&half, vec![&half, &half]).unwrap();
    assert!(
        score_group(&model, &fits, 1.0).is_ok(),
        "each response fits by itself"
    );

    let refused = |ids: &[u32]| sequence_logits(&model, ids).unwrap_err().to_string();
    assert!(refused(&[]).contains("the prompt is empty"));
    assert!(refused(&[300]).contains("token id 300 is outside"));
    assert!(refused(&long).contains("129") && refused(&long).contains("128"));
    let lone = sequence_logprobs(&model, &[999]).unwrap_err().to_string();
    assert!(lone.contains("token id 999 is outside"), "{lone}");
}

/// Every architecture, with a tied or an untied head, with all weights trainable or with adapters on
/// frozen weights.
#[test]
fn recomputed_layers_give_the_same_gradients() {
    let (prompt, one, two) = ([5, 6, 7], [8, 9, 10, 11], [12, 13]);
    let group = PackedGroup::new(&prompt, vec![&one, &two]).unwrap();
    let weights = [1.0, -0.5, 0.25, 2.0, -1.0, 0.75];
    for name in TINY_MODELS {
        let adapted = fixture(name)
            .with_lora(&LoraConfig::default(), 1, 0)
            .unwrap();
        for model in [fixture(name), adapted] {
            let gradients = [Activations::Keep, Activations::Recompute].map(|activations| {
                let scored = ScoredGroup::new(&model, &group, 0.7, activations).unwrap();
                scored.backward(weights.to_vec()).into_vec()
            });
            let [stored, recomputed] = gradients;
            let mut layers_with_trained_experts = HashSet::new();
            for ((spec, _), gradient) in model.named_weights().iter().zip(&stored) {
                let is_trained = model.lora().is_none() || spec.name.contains("adapter");
                match spec.name.split_once(".mlp.experts.") {
                    // Experts that no token uses have no gradients.
                    Some(_) if gradient.is_none() => {}
                    Some((layer, _)) => {
                        assert!(is_trained, "{name}: {}", spec.name);
                        layers_with_trained_experts.insert(layer.to_owned());
                    }
                    None => assert_eq!(gradient.is_some(), is_trained, "{name}: {}", spec.name),
                }
            }
            if model.config().parts.experts.is_some() {
                assert_eq!(layers_with_trained_experts.len(), model.config().layers);
            }
            for gradients in stored.into_iter().zip(recomputed) {
                match gradients {
                    (Some(stored), Some(recomputed)) => {
                        assert_same_gradients(&[to_host(recomputed)], &[to_host(stored)]);
                    }
                    (stored, recomputed) => {
                        assert!(stored.is_none() && recomputed.is_none(), "{name}");
                    }
                }
            }
        }
    }
}

/// Two responses to a prompt. Hidden states are read at the prompt's end and within the second response.
const PROMPT: [u32; 5] = [3, 70, 12, 200, 9];
const RESPONSES: [&[u32]; 2] = [&[5, 80, 130], &[7, 6, 99, 21]];

fn state_indices(group: &PackedGroup<'_>) -> [usize; 2] {
    [
        group.last_prompt_index(),
        group.response_index(1, 2).unwrap(),
    ]
}

/// The weights of a linear objective, which vary from number to number.
fn objective_weights(count: usize, factor: usize) -> Vec<f32> {
    let weight = |index: usize| ((index * factor + 5) % 17) as f32 / 8.0 - 0.9;
    (0..count).map(weight).collect()
}

#[test]
fn tokens_that_are_not_run_have_no_index() {
    let group = PackedGroup::new(&PROMPT, RESPONSES.to_vec()).unwrap();
    assert_eq!(group.last_prompt_index(), 4);
    for (response, token, expected) in [
        (0, 0, Some(5)),
        (0, 1, Some(6)),
        (0, 2, None),
        (1, 0, Some(7)),
        (1, 2, Some(9)),
        (1, 3, None),
        (2, 0, None),
    ] {
        assert_eq!(group.response_index(response, token), expected);
    }
    let model = tiny();
    let keep = Activations::Keep;
    let error = ScoredGroup::with_hidden_states(&model, &group, 1.0, keep, &[4, 10]).unwrap_err();
    let message = error.to_string();
    assert!(
        message.starts_with("there is no hidden state at index 10"),
        "{message}"
    );
}

#[test]
fn hidden_states_are_those_after_the_tokens() {
    let model = tiny();
    let group = PackedGroup::new(&PROMPT, RESPONSES.to_vec()).unwrap();
    for activations in [Activations::Keep, Activations::Recompute] {
        let indices = state_indices(&group);
        let scored =
            ScoredGroup::with_hidden_states(&model, &group, 1.0, activations, &indices).unwrap();
        let plain = ScoredGroup::new(&model, &group, 1.0, activations).unwrap();
        assert_eq!(scored.logprobs(), plain.logprobs());
        assert!(plain.hidden_states().is_empty());
        let sequence = [&PROMPT[..], &RESPONSES[1][..3]].concat();
        let expected = [
            last_hidden_state(&model, &PROMPT).unwrap(),
            last_hidden_state(&model, &sequence).unwrap(),
        ];
        assert_close(scored.hidden_states(), &expected.concat(), 1e-5);
    }
}

#[test]
fn gradients_through_hidden_states_are_those_of_finite_differences() {
    let group = PackedGroup::new(&PROMPT, RESPONSES.to_vec()).unwrap();
    let indices = state_indices(&group);
    for name in TINY_MODELS {
        let model = fixture(name);
        let objective = |model: &LanguageModel| {
            let keep = Activations::Keep;
            let scored =
                ScoredGroup::with_hidden_states(model, &group, 0.8, keep, &indices).unwrap();
            let sum = |values: &[f32], factor| {
                let weights = objective_weights(values.len(), factor);
                let terms = values.iter().zip(weights);
                terms
                    .map(|(&a, b)| f64::from(a) * f64::from(b))
                    .sum::<f64>()
            };
            sum(scored.logprobs(), 37) + sum(scored.hidden_states(), 29)
        };
        for activations in [Activations::Keep, Activations::Recompute] {
            let scored =
                ScoredGroup::with_hidden_states(&model, &group, 0.8, activations, &indices)
                    .unwrap();
            let logprobs = objective_weights(scored.logprobs().len(), 37);
            let states = objective_weights(scored.hidden_states().len(), 29);
            let gradients = scored
                .backward_with_hidden_states(logprobs, states)
                .into_vec();
            for (weight, gradient) in gradients.into_iter().enumerate().step_by(3) {
                let gradient = to_host(gradient.expect("every weight matters"));
                let steepest = (0..gradient.len())
                    .max_by(|&a, &b| gradient[a].abs().total_cmp(&gradient[b].abs()))
                    .unwrap();
                let delta = 2e-3;
                let above = objective(&perturbed(&model, weight, steepest, delta));
                let below = objective(&perturbed(&model, weight, steepest, -delta));
                let difference = (above - below) / f64::from(2.0 * delta);
                let derivative = f64::from(gradient[steepest]);
                assert!(
                    (difference - derivative).abs() <= 2e-2 * derivative.abs(),
                    "{name}, {activations:?}, weight {weight}: {derivative} is not {difference}"
                );
            }
        }
    }
}

/// The model with `delta` added to one number of one weight.
fn perturbed(model: &LanguageModel, weight: usize, index: usize, delta: f32) -> LanguageModel {
    let name = model.named_weights()[weight].0.name.clone();
    let values = model.named_weights().into_iter();
    let values: std::collections::HashMap<String, Vec<f32>> = values
        .map(|(spec, tensor)| (spec.name, to_host(tensor)))
        .collect();
    let mut perturbed = model.clone();
    let read = |spec: &TensorSpec| {
        let mut values = values[&spec.name].clone();
        if spec.name == name {
            values[index] += delta;
        }
        Ok(values)
    };
    perturbed.replace_trainable(read).unwrap();
    perturbed
}
