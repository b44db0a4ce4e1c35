//! Generation on a device: compared with the CPU, counted launches, replayed passes.

use std::path::Path;

use burn::tensor::Device;
use proptest::prelude::*;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::{
    LoraConfig, ModelFiles, PromptGroup, StreamKey, generate,
    generation::{Generation, draw::sample_token},
    kernels::cube::tests::{device, device_alone, launches},
};

/// The largest difference of a log-probability, in nats.
const LOGPROB_TOLERANCE: f32 = 1e-3;

fn load(name: &str, device: &Device) -> LanguageModel {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fixtures")
        .join(name);
    LanguageModel::load(&ModelFiles::open(&path).unwrap(), device).unwrap()
}

/// Prompts of several lengths. The last two begin alike.
fn prompts() -> Vec<Vec<u32>> {
    let prompt = |length: usize, salt: usize| {
        (0..length)
            .map(|i| ((i * 89 + salt * 31 + 3) % 256) as u32)
            .collect::<Vec<_>>()
    };
    let [a, mut b, mut c] = [prompt(7, 0), prompt(30, 1), prompt(30, 1)];
    b.extend(prompt(12, 2));
    c.extend(prompt(5, 3));
    vec![a, b, c]
}

fn groups(prompts: &[Vec<u32>], samples: u8) -> Vec<PromptGroup<'_>> {
    let groups = prompts.iter().enumerate();
    groups
        .map(|(task, prompt)| PromptGroup {
            prompt,
            keys: (0..samples)
                .map(|sample| StreamKey([sample * 7 + task as u8; 32]))
                .collect(),
            prefix_group: task.min(1) as u64,
        })
        .collect()
}

fn config(sampling: Sampling, max_new_tokens: usize, stop_tokens: Vec<u32>) -> GenerationConfig {
    GenerationConfig {
        sampling,
        max_new_tokens,
        stop_tokens,
    }
}

fn sampling(temperature: f32, top_p: f32, top_k: Option<usize>) -> Sampling {
    Sampling {
        temperature,
        top_p,
        top_k,
    }
}

fn run(
    model: &LanguageModel,
    groups: &[PromptGroup<'_>],
    config: &GenerationConfig,
) -> Vec<Generation> {
    generate(model, groups, config, &mut |_| ())
        .unwrap()
        .concat()
}

#[test]
fn responses_are_those_of_the_cpu() {
    let (_guard, device) = device();
    for name in [
        "tiny-llama",
        "tiny-qwen2",
        "tiny-qwen3",
        "tiny-qwen3-moe",
        "tiny-gemma3",
    ] {
        let models = [
            load(name, &Device::flex()),
            load(name, &device.clone().inner()),
        ];
        let all = [
            sampling(0.7, 0.9, None),
            Sampling::greedy(),
            Sampling::default(),
            sampling(1.3, 0.95, Some(20)),
        ];
        // How tokens are drawn does not depend on the architecture.
        let settings = if name == "tiny-llama" {
            &all[..]
        } else {
            &all[..1]
        };
        for sampling in settings {
            assert_same_responses(name, &models, sampling);
        }
    }
}

/// Compares the responses of a model on the CPU and on a device.
#[track_caller]
fn assert_same_responses(name: &str, models: &[LanguageModel; 2], sampling: &Sampling) {
    let prompts = prompts();
    // Some of the stop tokens come up, so that rows end at different times.
    let config = config(sampling.clone(), 21, (0..256).step_by(9).collect());
    let groups = groups(&prompts, 3);
    let [expected, actual] = models.each_ref().map(|model| run(model, &groups, &config));
    for (actual, expected) in actual.iter().zip(&expected) {
        assert_eq!(actual.tokens, expected.tokens, "{name} {config:?}");
        assert_eq!(actual.finish, expected.finish);
        for (a, b) in actual.logprobs.iter().zip(&expected.logprobs) {
            assert!((a - b).abs() < LOGPROB_TOLERANCE, "{name}: {a} is not {b}");
        }
    }
}

#[test]
fn adapters_are_merged() {
    let (_guard, device) = device();
    let models = [Device::flex(), device.inner()].map(|device| {
        let plain = load("tiny-llama", &device);
        let mut model = plain
            .clone()
            .with_lora(&LoraConfig::default(), 1, 0)
            .unwrap();
        // New adapters have no effect.
        let values = |count| (0..count).map(|i| ((i * 37 % 11) as f32 - 5.0) * 0.02);
        model
            .replace_trainable(|spec| Ok(values(spec.shape.iter().product()).collect()))
            .unwrap();
        let (prompts, config) = (prompts(), config(Sampling::default(), 9, vec![]));
        let groups = groups(&prompts, 1);
        assert_ne!(run(&model, &groups, &config), run(&plain, &groups, &config));
        model
    });
    assert_same_responses("adapters", &models, &Sampling::default());
}

#[test]
fn launches_per_pass() {
    let (_guard, device) = device_alone();
    let prompts = prompts();
    for (name, per_layer) in [
        ("tiny-llama", 5),
        // The norms of queries and keys are part of attention.
        ("tiny-qwen3", 5),
        // The outputs of attention and of the feed-forward layer are normalized.
        ("tiny-gemma3", 7),
        // The router, the choice and the sum of experts.
        ("tiny-qwen3-moe", 8),
    ] {
        let model = load(name, &device.clone().inner());
        let count = |tokens| {
            let config = config(Sampling::default(), tokens, vec![]);
            launches(|| run(&model, &groups(&prompts, 4), &config)).0
        };
        // Embedding, head and sampling.
        let pass = (per_layer * model.config().layers + 3) as u64;
        let without = count(1);
        // Preparations have launches of their own; a second pass does not add to them.
        let one = count(2);
        assert!(one >= without + pass);
        // Passes after the first one are recorded once and then replayed.
        assert_eq!(count(3), one + pass, "{name}");
        assert_eq!(count(22), one + pass, "{name}");
    }
}

/// As [`generate`], with a decoder that is changed first.
fn decode(
    model: &LanguageModel,
    groups: &[PromptGroup<'_>],
    config: &GenerationConfig,
    on_pass: &mut dyn FnMut(usize),
    change: impl FnOnce(&mut DeviceDecoder<'_>),
) -> Vec<Generation> {
    let prompts = Prompts::run(model, groups);
    let mut rows = Vec::new();
    for (index, (group, logits)) in groups.iter().zip(&prompts.logits).enumerate() {
        rows.extend(group.keys.iter().map(|&key| {
            let mut row = Row::new(index, key, group);
            row.push(row.draw(logits, config), config);
            row
        }));
    }
    let active: Vec<&mut Row> = rows.iter_mut().filter(|row| row.finish.is_none()).collect();
    let weights = model.decode_weights().unwrap();
    let mut decoder = DeviceDecoder::new(model, weights, prompts, &active, config);
    change(&mut decoder);
    decoder.run(active, config, on_pass).unwrap();
    rows.into_iter().map(Row::into_generation).collect()
}

#[test]
fn a_device_that_refuses_to_record_gives_the_same_responses() {
    let (_guard, device) = device_alone();
    let model = load("tiny-llama", &device.inner());
    let prompts = prompts();
    let groups = groups(&prompts, 3);
    // So many stop tokens that the batch becomes smaller.
    let config = config(Sampling::default(), 40, (0..256).step_by(9).collect());
    let run = |spoils: fn(usize) -> bool| {
        let mut reported = 0;
        let mut on_pass = |tokens| reported += tokens;
        let responses = decode(&model, &groups, &config, &mut on_pass, |decoder| {
            decoder.records = true;
            decoder.spoils_recording = spoils;
        });
        (responses, reported)
    };
    let expected = run(|_| false);
    assert!(!CANNOT_RECORD.load(Ordering::Relaxed));
    // From the start, and after tokens have been read.
    for spoils in [|_| true, |rows| rows < 5] as [fn(usize) -> bool; 2] {
        let actual = run(spoils);
        // So that other tests record.
        assert!(CANNOT_RECORD.swap(false, Ordering::Relaxed));
        assert_eq!(actual, expected);
    }
}

#[test]
fn replayed_passes_equal_launched_ones() {
    let (_guard, device) = device_alone();
    let prompts = prompts();
    let groups = groups(&prompts, 3);
    let config = config(Sampling::default(), 40, vec![5, 17, 40]);
    for name in ["tiny-llama", "tiny-gemma3", "tiny-qwen3-moe"] {
        let model = load(name, &device.clone().inner());
        let [(few, replayed), (many, launched)] = [true, false].map(|records| {
            let change = |decoder: &mut DeviceDecoder<'_>| decoder.records = records;
            launches(|| decode(&model, &groups, &config, &mut |_| (), change))
        });
        assert!(few < many, "{few} {many}");
        assert_eq!(replayed, launched, "{name}");
    }
}

#[test]
fn a_response_does_not_depend_on_its_company() {
    let (_guard, device) = device();
    let model = load("tiny-llama", &device.inner());
    let prompts = &prompts()[..2];
    let config = config(Sampling::default(), 30, vec![5, 17]);
    let groups = groups(prompts, 6);
    let together = run(&model, &groups, &config);
    let alone = groups.iter().flat_map(|group| {
        group.keys.iter().map(|&key| {
            let alone = PromptGroup {
                keys: vec![key],
                ..group.clone()
            };
            run(&model, &[alone], &config).remove(0)
        })
    });
    assert_eq!(together, alone.collect::<Vec<_>>());
}

#[test]
fn every_pass_is_reported() {
    let (_guard, device) = device();
    let models = [
        load("tiny-llama", &Device::flex()),
        load("tiny-llama", &device.inner()),
    ];
    let prompts = prompts();
    let config = config(Sampling::default(), 19, vec![5, 17, 99]);
    let reports = models.map(|model| {
        let mut added = Vec::new();
        generate(&model, &groups(&prompts, 3), &config, &mut |tokens| {
            added.push(tokens)
        })
        .unwrap();
        while added.last() == Some(&0) {
            added.pop();
        }
        added
    });
    assert_eq!(reports[0], reports[1]);
}

#[test]
fn logits_that_are_not_finite_are_found() {
    let (_guard, device) = device();
    for value in [f32::NAN, f32::INFINITY] {
        let mut logits = vec![0.5; 40];
        logits[7] = value;
        for sampling in [
            Sampling::greedy(),
            Sampling::default(),
            sampling(1.0, 0.9, Some(5)),
        ] {
            let drawn = draw(
                &device.clone().inner(),
                std::slice::from_ref(&logits),
                &[0.5],
                &sampling,
            );
            assert!(
                !drawn[0].logprob.is_finite(),
                "{value} {sampling:?} {drawn:?}"
            );
        }
    }
}

/// Tokens and log-probabilities that the kernel draws from rows of logits, with one random number per row.
fn draw(
    device: &Device,
    logits: &[Vec<f32>],
    uniforms: &[f32],
    sampling: &Sampling,
) -> Vec<SampledToken> {
    let (rows, vocabulary) = (logits.len(), logits[0].len());
    let data = burn::tensor::TensorData::new(logits.concat(), [rows, vocabulary]);
    let logits = primitive(Tensor::<2>::from_data(data, device));
    let states = (0..rows).flat_map(|row| {
        RowState {
            prompt: 0,
            prompt_length: 0,
            slot: row as u32,
            filled: 0,
        }
        .numbers()
    });
    // The first number is not used: it is that of the token before.
    let uniforms = uniforms
        .iter()
        .flat_map(|uniform| [0.5f32.to_bits(), uniform.to_bits()]);
    let state = State {
        rows: upload(
            &logits,
            [rows, RowState::NUMBERS],
            &states.collect::<Vec<_>>(),
        ),
        tokens: buffer(&logits, [rows], DType::U32),
        uniforms: upload(&logits, [rows, 2], &uniforms.collect::<Vec<_>>()),
        drawn: buffer(&logits, [PASSES, rows], DType::U32),
        logprobs: buffer(&logits, [PASSES, rows], DType::F32),
    };
    Sample {
        logits: &logits,
        uniforms: &state.uniforms,
        state: &state.rows,
        tokens: &state.tokens,
        drawn: &state.drawn,
        logprobs: &state.logprobs,
        rows,
        sampling,
    }
    .launch();
    let handles = [state.drawn, state.logprobs, state.tokens].map(|tensor| tensor.handle);
    let read = logits.client.read(handles.to_vec()).unwrap();
    let [tokens, logprobs, last] = [0, 1, 2].map(|index| read[index].as_chunks::<4>().0);
    (0..rows)
        .map(|row| {
            assert_eq!(tokens[row], last[row]);
            SampledToken {
                token: u32::from_ne_bytes(tokens[row]),
                logprob: f32::from_ne_bytes(logprobs[row]),
            }
        })
        .collect()
}

#[test]
fn tokens_are_drawn_as_on_the_host() {
    let (_guard, device) = device();
    let device = device.inner();
    let mut random = ChaCha8Rng::seed_from_u64(3);
    let settings = [
        Sampling::greedy(),
        sampling(1.0, 1.0, None),
        sampling(0.6, 1.0, None),
        sampling(1.0, 0.9, None),
        sampling(0.8, 0.5, None),
        sampling(1.0, 1.0, Some(50)),
        sampling(1.2, 0.95, Some(40)),
        sampling(1.0, 1.0, Some(1)),
    ];
    let (mut drawn, mut different) = (0, 0);
    for sampling in settings {
        for vocabulary in [256, 5003] {
            let logits: Vec<Vec<f32>> = (0..150)
                .map(|_| {
                    (0..vocabulary)
                        .map(|_| random.random_range(-6.0..6.0))
                        .collect()
                })
                .collect();
            let uniforms: Vec<f32> = logits.iter().map(|_| random.random::<f32>()).collect();
            let actual = draw(&device, &logits, &uniforms, &sampling);
            for ((logits, uniform), actual) in logits.iter().zip(&uniforms).zip(actual) {
                let expected = sample_token(logits, &sampling, f64::from(*uniform));
                drawn += 1;
                if actual.token == expected.token {
                    let gap = (actual.logprob - expected.logprob).abs();
                    assert!(gap < 1e-5, "{actual:?} is not {expected:?}");
                } else {
                    different += 1;
                }
            }
        }
    }
    println!("{different} of {drawn} tokens differ");
    assert!(different * 1000 <= drawn, "{different} of {drawn} differ");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    /// Logits with many ties, signs and zeros of both signs; the token must be kept by top-k and top-p.
    #[test]
    fn ties_and_signs(
        logits in prop::collection::vec(prop_oneof![Just(0.0f32), Just(-0.0f32), (-3i8..3i8).prop_map(f32::from)], 1..40),
        uniform in 0.0f32..1.0,
        top_k in prop::option::of(1usize..50),
        top_p in prop_oneof![Just(1.0f32), 0.05f32..1.0],
    ) {
        let (_guard, device) = device();
        let sampling = sampling(1.0, top_p, top_k);
        let actual = draw(&device.inner(), std::slice::from_ref(&logits), &[uniform], &sampling);
        let expected = sample_token(&logits, &sampling, f64::from(uniform));
        // With few equal weights, a random number can be very close to a border.
        let near = [uniform - 1e-5, uniform + 1e-5].map(|uniform| {
            sample_token(&logits, &sampling, f64::from(uniform).clamp(0.0, 1.0)).token
        });
        prop_assert!(
            actual[0].token == expected.token || near.contains(&actual[0].token),
            "{:?} is not {:?}", actual[0], expected
        );
    }
}
