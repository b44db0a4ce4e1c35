//! Runs one layer of real models on the driver of `tests/mock-cuda`, so that CUDA's compiler compiles every kernel that
//! generation and training launch, for sizes of real models. Nothing is computed, so no result is looked at. `cargo xtask ci --devices` runs it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{fs, path::Path};

use burn::tensor::Device;
use polyphony_model::{
    Activations, DeviceWork, GenerationConfig, LanguageModel, ModelFiles, PackedGroup, Precision,
    PromptGroup, Sampling, ScoredGroup, StreamKey, generate,
};
use polyphony_test_support::{edit_json, fixture};
use safetensors::{Dtype, serialize_to_file, tensor::TensorView};
use serde_json::json;
use tempfile::TempDir;

const VOCABULARY: usize = 2048;

/// The sizes of a model.
struct Sizes {
    /// The model whose configuration is changed to these sizes.
    fixture: &'static str,
    layers: usize,
    hidden: usize,
    inner: usize,
    heads: usize,
    kv_heads: usize,
    head: usize,
    experts: usize,
}

impl Sizes {
    /// The names and shapes of all weights.
    fn weights(&self) -> Vec<(String, Vec<usize>)> {
        let is = |name: &str| self.fixture == name;
        let (d, s) = (self.hidden, self.head);
        let (queries, keys) = (self.heads * s, self.kv_heads * s);
        let mut weights = vec![
            ("model.embed_tokens.weight".to_owned(), vec![VOCABULARY, d]),
            ("model.norm.weight".to_owned(), vec![d]),
        ];
        if is("tiny-qwen3") || is("tiny-qwen3-moe") {
            weights.push(("lm_head.weight".to_owned(), vec![VOCABULARY, d]));
        }
        for layer in 0..self.layers {
            let mut add = |name: &str, shape: Vec<usize>| {
                weights.push((format!("model.layers.{layer}.{name}.weight"), shape));
            };
            for (name, rows) in [("q", queries), ("k", keys), ("v", keys)] {
                add(&format!("self_attn.{name}_proj"), vec![rows, d]);
            }
            add("self_attn.o_proj", vec![d, queries]);
            add("input_layernorm", vec![d]);
            add("post_attention_layernorm", vec![d]);
            if !is("tiny-llama") && !is("tiny-qwen2") {
                add("self_attn.q_norm", vec![s]);
                add("self_attn.k_norm", vec![s]);
            }
            if is("tiny-gemma3") {
                add("pre_feedforward_layernorm", vec![d]);
                add("post_feedforward_layernorm", vec![d]);
            }
            let parts: Vec<String> = match self.experts {
                0 => vec!["mlp".to_owned()],
                count => (0..count).map(|e| format!("mlp.experts.{e}")).collect(),
            };
            for part in parts {
                add(&format!("{part}.gate_proj"), vec![self.inner, d]);
                add(&format!("{part}.up_proj"), vec![self.inner, d]);
                add(&format!("{part}.down_proj"), vec![d, self.inner]);
            }
            if self.experts > 0 {
                add("mlp.gate", vec![self.experts, d]);
            }
            if is("tiny-qwen2") {
                for (name, rows) in [("q", queries), ("k", keys), ("v", keys)] {
                    let name = format!("model.layers.{layer}.self_attn.{name}_proj.bias");
                    weights.push((name, vec![rows]));
                }
            }
        }
        weights
    }

    /// Writes a model of these sizes whose weights are zero.
    fn write(&self) -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("config.json");
        fs::copy(fixture(self.fixture).join("config.json"), &config).unwrap();
        edit_json(&config, |config| {
            for (key, value) in [
                ("vocab_size", VOCABULARY),
                ("hidden_size", self.hidden),
                ("intermediate_size", self.inner),
                ("num_hidden_layers", self.layers),
                ("num_attention_heads", self.heads),
                ("num_key_value_heads", self.kv_heads),
                ("head_dim", self.head),
                ("max_position_embeddings", 512),
            ] {
                config[key] = json!(value);
            }
            if self.experts > 0 {
                config["moe_intermediate_size"] = json!(self.inner);
                config["num_local_experts"] = json!(self.experts);
            }
            if let Some(kinds) = config.get_mut("layer_types") {
                let kinds = kinds.as_array_mut().unwrap();
                // The last two of Gemma's kinds are all tokens and a window.
                kinds.drain(..kinds.len() - self.layers);
            }
        });
        let weights = self.weights();
        let largest = weights
            .iter()
            .map(|(_, shape)| shape.iter().product::<usize>());
        let zeros = vec![0; 2 * largest.max().unwrap()];
        let views = weights.iter().map(|(name, shape)| {
            let bytes = &zeros[..2 * shape.iter().product::<usize>()];
            let view = TensorView::new(Dtype::BF16, shape.clone(), bytes).unwrap();
            (name.as_str(), view)
        });
        serialize_to_file(views, None, &folder.path().join("model.safetensors")).unwrap();
        folder
    }
}

/// One layer, or two where layers differ, of SmolLM2-135M, Qwen2.5-0.5B, Qwen3-1.7B, Gemma 3 1B and Qwen3-30B-A3B, the
/// last with fewer experts.
const MODELS: [Sizes; 5] = [
    Sizes {
        fixture: "tiny-llama",
        layers: 1,
        hidden: 576,
        inner: 1536,
        heads: 9,
        kv_heads: 3,
        head: 64,
        experts: 0,
    },
    Sizes {
        fixture: "tiny-qwen2",
        layers: 1,
        hidden: 896,
        inner: 4864,
        heads: 14,
        kv_heads: 2,
        head: 64,
        experts: 0,
    },
    Sizes {
        fixture: "tiny-qwen3",
        layers: 1,
        hidden: 2048,
        inner: 6144,
        heads: 16,
        kv_heads: 8,
        head: 128,
        experts: 0,
    },
    Sizes {
        fixture: "tiny-gemma3",
        layers: 2,
        hidden: 1152,
        inner: 6912,
        heads: 4,
        kv_heads: 1,
        head: 256,
        experts: 0,
    },
    Sizes {
        fixture: "tiny-qwen3-moe",
        layers: 1,
        hidden: 2048,
        inner: 768,
        heads: 32,
        kv_heads: 4,
        head: 128,
        experts: 8,
    },
];

#[test]
#[ignore = "needs the driver of tests/mock-cuda and CUDA's compiler: run `cargo xtask ci --devices`"]
fn generation_and_training() {
    let device = Device::cuda(0);
    for sizes in MODELS {
        let folder = sizes.write();
        for precision in [Precision::F32, Precision::Bf16] {
            generate_and_train(folder.path(), &device, precision);
        }
    }
}

fn generate_and_train(folder: &Path, device: &Device, precision: Precision) {
    let files = ModelFiles::open(folder).unwrap();
    let model = LanguageModel::load(&files, device)
        .unwrap()
        .with_precision(precision)
        .unwrap();
    let prompt: Vec<u32> = (0..40).collect();
    // A batch of 16 rows, which becomes smaller.
    let keys = (0..16).map(|index| StreamKey([index; 32])).collect();
    let groups = [PromptGroup {
        prompt: &prompt,
        keys,
        prefix_group: 0,
    }];
    for sampling in [
        Sampling::greedy(),
        Sampling::default(),
        Sampling {
            temperature: 0.7,
            top_p: 0.9,
            top_k: Some(50),
        },
    ] {
        let config = GenerationConfig {
            sampling,
            max_new_tokens: 4,
            stop_tokens: Vec::new(),
        };
        generate(&model, &groups, &config, &mut |_| ()).unwrap();
    }
    let responses: Vec<Vec<u32>> = (1..5).map(|length| vec![7; 10 * length]).collect();
    let responses = responses.iter().map(Vec::as_slice).collect();
    let group = PackedGroup::new(&prompt, responses).unwrap();
    let (work, gradients) = DeviceWork::of(|| {
        let scored = ScoredGroup::new(&model, &group, 0.7, Activations::Keep).unwrap();
        let derivatives = vec![1.0; scored.logprobs().len()];
        scored.backward(derivatives)
    });
    println!(
        "{precision:?}: {} launches, forward and backward",
        work.launches
    );
    // Reading the norm waits for all kernels. It is that of whatever the memory held.
    gradients.norm();
}
