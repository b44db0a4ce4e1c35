//! Launches and memory of a whole forward and backward pass.

use std::path::Path;

use burn::tensor::Device;

use super::{device_alone, launches};
use crate::{Activations, LanguageModel, ModelFiles, PackedGroup, Precision, ScoredGroup};

fn load(name: &str, device: &Device) -> LanguageModel {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fixtures")
        .join(name);
    LanguageModel::load(&ModelFiles::open(&path).unwrap(), device).unwrap()
}

/// Token ids of a prompt and of four responses that are as long as the prompt.
fn tokens(count: usize) -> (Vec<u32>, Vec<Vec<u32>>) {
    let ids = |salt: usize| (0..count).map(move |i| ((i * 89 + salt * 31 + 3) % 256) as u32);
    (
        ids(0).collect(),
        (1..5).map(|salt| ids(salt).collect()).collect(),
    )
}

#[test]
fn launches_of_forward_and_backward() {
    let (_guard, device) = device_alone();
    for (name, layers, expected) in [
        ("tiny-llama", [3, 2], 50),
        ("tiny-qwen2", [3, 2], 56),
        ("tiny-qwen3", [3, 2], 56),
        // The last layer that is added has a window, as most have.
        ("tiny-gemma3", [5, 4], 64),
    ] {
        let (prompt, responses) = tokens(12);
        let group =
            PackedGroup::new(&prompt, responses.iter().map(Vec::as_slice).collect()).unwrap();
        let counts = layers.map(|layers| {
            let model = load(name, &device.clone().inner()).truncated(layers);
            let update = || {
                let scored = ScoredGroup::new(&model, &group, 0.7, Activations::Keep).unwrap();
                let derivatives = vec![1.0; scored.logprobs().len()];
                scored.backward(derivatives)
            };
            launches(update).0
        });
        let [more, fewer] = counts;
        assert_eq!(more - fewer, expected, "{name}");
    }
}

/// Bytes that a forward pass keeps for the backward pass.
fn kept_bytes(model: &LanguageModel, device: &Device, count: usize) -> u64 {
    let in_use = || {
        device.sync().unwrap();
        device.memory_pool_usage().unwrap().bytes_in_use
    };
    let (prompt, responses) = tokens(count);
    let group = PackedGroup::new(&prompt, responses.iter().map(Vec::as_slice).collect()).unwrap();
    let before = in_use();
    let scored = ScoredGroup::new(model, &group, 0.7, Activations::Keep).unwrap();
    let kept = in_use() - before;
    drop(scored);
    kept
}

#[test]
fn memory_is_linear_in_tokens_and_as_estimated() {
    let (_guard, device) = device_alone();
    let device = device.inner();
    for name in ["tiny-llama", "tiny-qwen3"] {
        let model = load(name, &device);
        let config = model.config();
        kept_bytes(&model, &device, 10);
        let estimate = |tokens| {
            let bytes =
                |tokens| config.activation_bytes(tokens, Activations::Keep, Precision::F32) as f64;
            // Between forward and backward pass, there is no chunk of logits, and no layer runs.
            let share = config.layers as f64 / (config.layers + 1) as f64;
            (bytes(tokens) - bytes(0)) * share
        };
        let of_count = |count: usize| kept_bytes(&model, &device, count) as f64;
        for count in [20, 40, 60] {
            let tokens = 5 * count - 4;
            let (kept, estimate) = (of_count(count), estimate(tokens));
            println!("{name}: {tokens} tokens, {kept} bytes, estimated {estimate}");
            assert!(
                (kept / estimate - 1.0).abs() < 0.15,
                "{name}: {kept} {estimate}"
            );
        }
        // As many tokens more take as many bytes more.
        let [few, some, many] = [20, 40, 60].map(of_count);
        let growth = (many - some) / (some - few);
        assert!((growth - 1.0).abs() < 0.02, "{name}: {growth}");
    }
}
