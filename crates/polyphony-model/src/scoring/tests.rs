//! Packed scoring against scoring the responses one by one, and what it refuses.

use std::path::Path;

use burn::tensor::{Device, activation::log_softmax};
use proptest::prelude::*;

use super::*;
use crate::{
    LoraConfig, ModelFiles, TensorSpec, kernels::host, network::attention::PackedAttention,
};

/// The largest difference of a log-probability, in nats.
const LOGPROB_TOLERANCE: f32 = 1e-5;
/// The largest distance of a weight's gradient, relative to its length.
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
fn assert_same_gradients(own: &[Vec<f32>], expected: &[Vec<f32>]) {
    assert_eq!(own.len(), expected.len());
    for (index, (own, expected)) in own.iter().zip(expected).enumerate() {
        let distance = length(own.iter().zip(expected).map(|(a, b)| a - b));
        let whole = length(expected.iter().copied());
        assert!(
            distance <= GRADIENT_TOLERANCE * whole,
            "weight {index}: {distance} of {whole}"
        );
    }
}

fn length(values: impl Iterator<Item = f32>) -> f64 {
    values.map(|v| f64::from(v).powi(2)).sum::<f64>().sqrt()
}

fn assert_close(own: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(own.len(), expected.len());
    for (a, b) in own.iter().zip(expected) {
        assert!((a - b).abs() <= tolerance, "{a} is not {b}");
    }
}

fn ids(tokens: std::ops::Range<usize>) -> impl Strategy<Value = Vec<u32>> {
    prop::collection::vec(0u32..256, tokens)
}

#[test]
fn every_weight_has_a_gradients_place_also_where_the_objective_ignores_the_layers() {
    for name in ["tiny-llama", "tiny-qwen2", "tiny-qwen3"] {
        let model = fixture(name);
        let (ids, positions) = ([5, 80, 130], [0, 1, 2]);
        let attention = || PackedAttention::new(2, &[1]);
        let inputs = model.layer_inputs(&ids, &positions, &mut attention());
        let of_the_head = |_, head: Tensor<2>| head.sum();
        let gradients = model.gradients(&ids, &positions, inputs, &mut attention(), of_the_head);
        let gradients = gradients.into_vec();
        let weights = model.named_weights();
        assert_eq!(gradients.len(), weights.len(), "{name}");
        let learns = |spec: &TensorSpec| match model.config().tied_head {
            true => spec.name.contains("embed_tokens"),
            false => spec.name.contains("lm_head"),
        };
        for ((spec, _), gradient) in weights.iter().zip(gradients) {
            assert_eq!(gradient.is_some(), learns(spec), "{name}: {}", spec.name);
        }
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
        // Another weight for every token, so that no mix-up cancels out.
        let tokens: usize = responses.iter().map(Vec::len).sum();
        let weights: Vec<f32> = (0..tokens).map(|i| ((i * 37 + 11) % 19) as f32 / 9.0 - 0.7).collect();
        let slices: Vec<&[u32]> = responses.iter().map(Vec::as_slice).collect();
        let group = PackedGroup::new(&prompt, slices).unwrap();
        let keep = Activations::Keep;
        let (together, gradients) = score(&model, &group, temperature, &weights, keep);

        let (mut apart, mut sums): (Vec<f32>, Vec<Vec<f32>>) = Default::default();
        for response in &responses {
            let own = &weights[apart.len()..][..response.len()];
            let alone = PackedGroup::new(&prompt, vec![response]).unwrap();
            let (logprobs, gradients) = score(&model, &alone, temperature, own, keep);
            apart.extend(logprobs);
            sums.resize_with(gradients.len(), Vec::new);
            for (sum, gradient) in sums.iter_mut().zip(gradients) {
                sum.resize(gradient.len(), 0.0);
                sum.iter_mut().zip(gradient).for_each(|(sum, value)| *sum += value);
            }
        }
        assert_close(&together, &apart, LOGPROB_TOLERANCE);
        assert_same_gradients(&gradients, &sums);
        let again = score(&model, &group, temperature, &weights, Activations::Recompute);
        assert_close(&again.0, &together, LOGPROB_TOLERANCE);
        assert_same_gradients(&again.1, &gradients);
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
        let own = to_host(score_group(&model, &group, temperature).unwrap());
        assert_close(&own, &expected, LOGPROB_TOLERANCE);
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
fn what_cannot_be_scored_is_named() {
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

/// Every architecture, with an embedding of its own or shared with the head, with frozen weights
/// below adapters or all of them learning.
#[test]
fn layers_run_again_give_the_same_gradients() {
    let (prompt, one, two) = ([5, 6, 7], [8, 9, 10, 11], [12, 13]);
    let group = PackedGroup::new(&prompt, vec![&one, &two]).unwrap();
    let weights = [1.0, -0.5, 0.25, 2.0, -1.0, 0.75];
    for name in ["tiny-llama", "tiny-qwen2", "tiny-qwen3"] {
        let adapted = fixture(name)
            .with_lora(&LoraConfig::default(), 1, 0)
            .unwrap();
        for model in [fixture(name), adapted] {
            let gradients = [Activations::Keep, Activations::Recompute].map(|activations| {
                let scored = ScoredGroup::new(&model, &group, 0.7, activations).unwrap();
                scored.backward(weights.to_vec()).into_vec()
            });
            let [kept, again] = gradients;
            let learning = kept.iter().flatten().count();
            let adapters = 2 * 7 * model.config().layers;
            match model.lora() {
                Some(_) => assert_eq!(learning, adapters, "{name}"),
                None => assert_eq!(learning, kept.len(), "{name}"),
            }
            for (kept, again) in kept.into_iter().zip(again) {
                match (kept, again) {
                    (Some(kept), Some(again)) => {
                        assert_same_gradients(&[to_host(again)], &[to_host(kept)]);
                    }
                    (kept, again) => assert!(kept.is_none() && again.is_none(), "{name}"),
                }
            }
        }
    }
}
