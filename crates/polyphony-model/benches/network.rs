//! Benchmarks of the operations on which training and generation spend their time, for random models
//! of two sizes: `tiny`, for a quick look, and `smollm2`, which has the size of the default model.
//!
//! - `decode`: sampled tokens per second, for 1 to 64 rows after a prompt of 128 tokens. The pass over
//!   the prompt is not counted.
//! - `score`: tokens per second, forward and backward, for one packed group with a prompt of 150 tokens
//!   and 4 responses of 64 tokens.
//!
//! `cargo bench -p polyphony-model` runs all benchmarks, `cargo bench -p polyphony-model -- tiny` only
//! those of the tiny model. With the feature `cuda` or `wgpu`, the variable `POLYPHONY_BENCH_DEVICE` of the environment
//! may name this device instead of the CPU.

use std::{cell::LazyCell, collections::HashMap, fs, hint::black_box, time::Instant};

use burn::tensor::Device;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group};
use mimalloc::MiMalloc;
use polyphony_model::{
    Activations, GenerationConfig, LanguageModel, ModelFiles, PackedGroup, Precision, PromptGroup,
    Sampling, ScoredGroup, StreamKey, generate,
};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use safetensors::{Dtype, tensor::TensorView};

// As in the `polyphony` program.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// The sizes of a Llama model with a tied head.
#[derive(Clone, Copy)]
struct Size {
    name: &'static str,
    vocabulary: usize,
    hidden: usize,
    intermediate: usize,
    layers: usize,
    heads: usize,
    kv_heads: usize,
}

const SIZES: [Size; 2] = [
    Size {
        name: "tiny",
        vocabulary: 256,
        hidden: 64,
        intermediate: 128,
        layers: 3,
        heads: 4,
        kv_heads: 2,
    },
    Size {
        name: "smollm2",
        vocabulary: 49152,
        hidden: 576,
        intermediate: 1536,
        layers: 30,
        heads: 9,
        kv_heads: 3,
    },
];

const NEW_TOKENS: usize = 17;

/// The device that the models run on.
fn device() -> Device {
    match std::env::var("POLYPHONY_BENCH_DEVICE").as_deref() {
        #[cfg(feature = "cuda")]
        Ok("cuda") => Device::cuda(0),
        #[cfg(feature = "wgpu")]
        Ok("wgpu") => Device::wgpu(burn::tensor::DeviceKind::DefaultDevice),
        Ok("cpu") | Err(_) => Device::flex(),
        Ok(name) => panic!("POLYPHONY_BENCH_DEVICE is `{name}`, which is no device of this build"),
    }
}

/// Every size in every precision of the device, with the first part of a benchmark's name.
fn variants(work: &str) -> Vec<(Size, Precision, String)> {
    let mut variants = Vec::new();
    for size in SIZES {
        for (precision, name) in [(Precision::F32, "f32"), (Precision::Bf16, "bf16")] {
            if precision.check(&device()).is_ok() {
                variants.push((size, precision, format!("{work}/{}/{name}", size.name)));
            }
        }
    }
    variants
}

fn decode(criterion: &mut Criterion) {
    for (size, precision, name) in variants("decode") {
        let mut group = criterion.benchmark_group(name);
        group.sample_size(10);
        // Created only if a benchmark of this size runs.
        let model = LazyCell::new(|| size.model(precision));
        let prompt = tokens(128);
        let config = GenerationConfig {
            sampling: Sampling::default(),
            max_new_tokens: NEW_TOKENS,
            stop_tokens: Vec::new(),
        };
        for rows in [1, 4, 8, 16, 32, 64] {
            let prompts = [PromptGroup {
                prompt: &prompt,
                keys: vec![StreamKey::default(); rows],
                prefix_group: 0,
            }];
            // The first token of each row comes from the prompt's pass.
            group.throughput(Throughput::Elements((rows * (NEW_TOKENS - 1)) as u64));
            group.bench_function(BenchmarkId::from_parameter(rows), |bencher| {
                let model = &*model;
                bencher.iter_custom(|times| {
                    let decoding = (0..times).map(|_| {
                        let mut prompt_done = None;
                        let first_pass = &mut |_| {
                            prompt_done.get_or_insert_with(Instant::now);
                        };
                        let responses = generate(model, &prompts, &config, first_pass);
                        black_box(responses.expect("the settings are valid"));
                        prompt_done.expect("a response has a token").elapsed()
                    });
                    decoding.sum()
                });
            });
        }
    }
}

fn score(criterion: &mut Criterion) {
    for (size, precision, name) in variants("score") {
        let mut group = criterion.benchmark_group(name);
        group.sample_size(10);
        let model = LazyCell::new(|| size.model(precision));
        let (prompt, response) = (tokens(150), tokens(64));
        let packed = PackedGroup::new(&prompt, vec![&response; 4]).expect("nothing is empty");
        let response_tokens = packed.lengths().map(|length| length - 1).sum::<usize>();
        let tokens = packed.prompt().len() + response_tokens;
        group.throughput(Throughput::Elements(tokens as u64));
        group.bench_function("4x64", |bencher| {
            let model = &*model;
            bencher.iter(|| {
                let scored = ScoredGroup::new(model, &packed, 1.0, Activations::Keep);
                let scored = scored.expect("the tokens are valid");
                let derivatives = vec![1.0; scored.logprobs().len()];
                black_box(scored.backward(derivatives))
            });
        });
    }
}

/// Token ids that are in both vocabularies.
fn tokens(length: usize) -> Vec<u32> {
    (0..length as u32).map(|index| 3 + index % 250).collect()
}

impl Size {
    /// A model of this size with small random weights. Timings do not depend on their values.
    fn model(self, precision: Precision) -> LanguageModel {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let config = serde_json::json!({
            "architectures": ["LlamaForCausalLM"],
            "vocab_size": self.vocabulary,
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "rms_norm_eps": 1e-5,
            "rope_theta": 1e5,
            "tie_word_embeddings": true,
        });
        fs::write(folder.path().join("config.json"), config.to_string()).expect("disk space");
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut values = |count: usize| -> Vec<u8> {
            let random = (0..count).map(|_| (rng.next_u32() as f32 / u32::MAX as f32 - 0.5) / 8.0);
            random.flat_map(f32::to_le_bytes).collect()
        };
        let bytes: Vec<_> = self
            .shapes()
            .into_iter()
            .map(|(name, shape)| (name, values(shape.iter().product()), shape))
            .collect();
        let views: HashMap<&str, TensorView<'_>> = bytes
            .iter()
            .map(|(name, bytes, shape)| {
                let view = TensorView::new(Dtype::F32, shape.clone(), bytes);
                (
                    name.as_str(),
                    view.expect("as many bytes as the shape says"),
                )
            })
            .collect();
        let path = folder.path().join("model.safetensors");
        safetensors::serialize_to_file(views, None, &path).expect("disk space");
        let files = ModelFiles::open(folder.path()).expect("a whole model");
        let model = LanguageModel::load(&files, &device()).expect("a whole model");
        model
            .with_precision(precision)
            .expect("the processor has it")
    }

    /// The tensors' Hugging Face names and shapes.
    fn shapes(self) -> Vec<(String, Vec<usize>)> {
        let (d, inner) = (self.hidden, self.intermediate);
        let keys = d / self.heads * self.kv_heads;
        let mut shapes = vec![
            (
                "model.embed_tokens.weight".to_owned(),
                vec![self.vocabulary, d],
            ),
            ("model.norm.weight".to_owned(), vec![d]),
        ];
        for layer in 0..self.layers {
            for (name, shape) in [
                ("input_layernorm", vec![d]),
                ("self_attn.q_proj", vec![d, d]),
                ("self_attn.k_proj", vec![keys, d]),
                ("self_attn.v_proj", vec![keys, d]),
                ("self_attn.o_proj", vec![d, d]),
                ("post_attention_layernorm", vec![d]),
                ("mlp.gate_proj", vec![inner, d]),
                ("mlp.up_proj", vec![inner, d]),
                ("mlp.down_proj", vec![d, inner]),
            ] {
                shapes.push((format!("model.layers.{layer}.{name}.weight"), shape));
            }
        }
        shapes
    }
}

criterion_group!(benches, decode, score);

/// Runs the benchmarks as the `polyphony` program trains: within the thread pool, with an allocator that keeps freed
/// memory.
fn main() {
    /// `mi_option_purge_delay` of mimalloc.h, a constant that the binding does not name.
    const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;
    // SAFETY: the option exists and may be set at any time.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, -1) };
    rayon::scope(|_| benches());
    Criterion::default().configure_from_args().final_summary();
}
