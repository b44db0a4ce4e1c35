//! Generation compared with the full forward pass, alone and in batches, and inputs that are refused.

use std::path::Path;

use burn::tensor::Device;

use super::*;
use crate::{
    Activations, ModelFiles, PackedGroup, Precision, ScoredGroup, score_group, sequence_logits,
};

/// The largest difference of a token's log-probability at sampling and at scoring, in nats.
const LOGPROB_TOLERANCE: f32 = 1e-4;

fn tiny() -> LanguageModel {
    fixture("tiny-llama")
}

fn fixture(name: &str) -> LanguageModel {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fixtures")
        .join(name);
    LanguageModel::load(&ModelFiles::open(&path).unwrap(), &Device::flex()).unwrap()
}

/// A model of each kind of layer, in each precision that this processor has: the plain one, a mixture of experts,
/// and sliding windows of 8 tokens.
fn kinds() -> Vec<LanguageModel> {
    let mut models = Vec::from(["tiny-llama", "tiny-qwen3-moe", "tiny-gemma3"].map(fixture));
    if Precision::Bf16.check(&Device::flex()).is_ok() {
        let rounded = models.clone().into_iter();
        models.extend(rounded.map(|model| model.with_precision(Precision::Bf16).unwrap()));
    }
    models
}

fn prompt(length: usize, salt: usize) -> Vec<u32> {
    (0..length)
        .map(|i| ((i * 89 + salt * 31 + 3) % 256) as u32)
        .collect()
}

/// Prompts of many lengths.
fn prompts() -> Vec<Vec<u32>> {
    [7, 1, 40, 18]
        .iter()
        .enumerate()
        .map(|(salt, &n)| prompt(n, salt))
        .collect()
}

/// A group for each prompt; every sample has its own key.
fn groups(prompts: &[Vec<u32>], samples: usize) -> Vec<PromptGroup<'_>> {
    prompts
        .iter()
        .enumerate()
        .map(|(task, prompt)| PromptGroup {
            prompt,
            keys: (0..samples).map(|sample| key(task, sample)).collect(),
            prefix_group: task as u64,
        })
        .collect()
}

fn key(task: usize, sample: usize) -> StreamKey {
    let mut bytes = [11; 32];
    (bytes[0], bytes[1]) = (task as u8, sample as u8);
    StreamKey(bytes)
}

fn config(sampling: Sampling, max_new_tokens: usize, stop_tokens: Vec<u32>) -> GenerationConfig {
    GenerationConfig {
        sampling,
        max_new_tokens,
        stop_tokens,
    }
}

fn run(
    model: &LanguageModel,
    groups: &[PromptGroup<'_>],
    config: &GenerationConfig,
) -> Vec<Vec<Generation>> {
    generate(model, groups, config, &mut |_| ()).unwrap()
}

/// Every eighth token ends a response, so rows finish at different times.
fn many_stop_tokens() -> Vec<u32> {
    (0..256).step_by(8).collect()
}

#[test]
fn cached_decoding_equals_the_full_forward_pass() {
    for model in kinds() {
        let prompts = prompts();
        let greedy = config(Sampling::greedy(), 24, vec![]);
        let answers = run(&model, &groups(&prompts, 2), &greedy);
        for (prompt, answers) in prompts.iter().zip(answers) {
            let mut sequence = prompt.clone();
            for _ in 0..24 {
                let logits = to_host(sequence_logits(&model, &sequence).unwrap());
                let last = &logits[logits.len() - 256..];
                let likeliest =
                    (0..256u32).max_by(|&a, &b| last[a as usize].total_cmp(&last[b as usize]));
                sequence.push(likeliest.unwrap());
            }
            for answer in answers {
                assert_eq!(answer.tokens, sequence[prompt.len()..]);
                assert_eq!(answer.finish, Finish::Length);
            }
        }
    }
}

#[test]
fn tokens_and_log_probabilities_are_the_same_with_any_number_of_threads() {
    for model in kinds() {
        let prompts = prompts();
        let config = config(Sampling::default(), 12, many_stop_tokens());
        let [one, two, five] = [1, 2, 5].map(|threads| {
            kernels::thread_pool(threads).install(|| run(&model, &groups(&prompts, 9), &config))
        });
        assert_eq!(one, two);
        assert_eq!(one, five);
        // From a thread outside of any pool.
        assert_eq!(one, run(&model, &groups(&prompts, 9), &config));
    }
}

#[test]
fn log_probabilities_equal_those_of_scoring() {
    for model in kinds() {
        let prompts = prompts();
        let rows = [
            Sampling::default(),
            Sampling::greedy(),
            Sampling {
                temperature: 0.7,
                ..Sampling::default()
            },
            Sampling {
                temperature: 1.6,
                ..Sampling::default()
            },
            Sampling {
                temperature: 0.9,
                top_p: 0.8,
                top_k: Some(40),
            },
        ];
        for sampling in rows {
            let temperature = sampling.scoring_temperature();
            let config = config(sampling, 20, many_stop_tokens());
            for (prompt, answers) in prompts
                .iter()
                .zip(run(&model, &groups(&prompts, 3), &config))
            {
                let tokens = answers
                    .iter()
                    .map(|answer| answer.tokens.as_slice())
                    .collect();
                let group = PackedGroup::new(prompt, tokens).unwrap();
                let scored = score_group(&model, &group, temperature);
                let sampled: Vec<f32> = answers.iter().flat_map(|a| a.logprobs.clone()).collect();
                let scored = to_host(scored.unwrap());
                assert_eq!(sampled.len(), scored.len());
                for (sampled, scored) in sampled.iter().zip(scored) {
                    assert!(
                        (sampled - scored).abs() <= LOGPROB_TOLERANCE,
                        "{sampled} is not {scored}"
                    );
                }
            }
        }
    }
}

/// Prefixes longer and shorter than the window of Gemma 3, and responses that leave it.
#[test]
fn prompts_that_share_a_prefix_are_scored_as_they_were_sampled() {
    for model in kinds() {
        let prefix = prompt(20, 0);
        let prompts: Vec<Vec<u32>> = [0, 3, 11]
            .map(|own| [&prefix[..], &prompt(own, 5)].concat())
            .into();
        let mut groups = groups(&prompts, 2);
        groups.iter_mut().for_each(|group| group.prefix_group = 0);
        let answers = run(&model, &groups, &config(Sampling::default(), 16, vec![]));
        for (prompt, answers) in prompts.iter().zip(answers) {
            for answer in answers {
                let group = PackedGroup::new(prompt, vec![&answer.tokens]).unwrap();
                let scored = to_host(score_group(&model, &group, 1.0).unwrap());
                for (sampled, scored) in answer.logprobs.iter().zip(scored) {
                    assert!(
                        (sampled - scored).abs() <= LOGPROB_TOLERANCE,
                        "{sampled} is not {scored}"
                    );
                }
            }
        }
    }
}

#[test]
fn a_row_is_the_same_alone_and_among_sixteen() {
    for model in kinds() {
        let prompts = prompts();
        for stop_tokens in [vec![], many_stop_tokens()] {
            let config = config(Sampling::default(), 24, stop_tokens);
            let groups = groups(&prompts, 4);
            let together = run(&model, &groups, &config);
            let lengths = |answers: &[Vec<Generation>]| {
                let mut lengths: Vec<usize> =
                    answers.iter().flatten().map(|a| a.tokens.len()).collect();
                lengths.sort_unstable();
                lengths.dedup();
                lengths.len()
            };
            assert_eq!(together.iter().flatten().count(), 16);
            assert!(
                config.stop_tokens.is_empty() || lengths(&together) > 4,
                "rows leave at many times"
            );
            for (group, answers) in groups.iter().zip(&together) {
                for (sample, answer) in answers.iter().enumerate() {
                    let alone = PromptGroup {
                        keys: vec![group.keys[sample]],
                        ..group.clone()
                    };
                    let alone = &run(&model, &[alone], &config)[0][0];
                    assert_eq!(
                        (&alone.tokens, alone.finish),
                        (&answer.tokens, answer.finish)
                    );
                    for (a, b) in alone.logprobs.iter().zip(&answer.logprobs) {
                        assert!((a - b).abs() <= LOGPROB_TOLERANCE, "{a} is not {b}");
                    }
                }
                assert_ne!(
                    answers[0].tokens, answers[1].tokens,
                    "samples have their own streams"
                );
            }
        }
    }
}

#[test]
fn a_stop_token_ends_its_row_belongs_to_it_and_changes_nothing_before() {
    let model = tiny();
    let prompts = prompts();
    let groups = groups(&prompts, 4);
    let free = run(&model, &groups, &config(Sampling::default(), 24, vec![]));
    let stop_tokens = many_stop_tokens();
    let stopped = run(
        &model,
        &groups,
        &config(Sampling::default(), 24, stop_tokens.clone()),
    );
    let mut finishes = Vec::new();
    for (free, stopped) in free.iter().flatten().zip(stopped.iter().flatten()) {
        let end = free.tokens.iter().position(|id| stop_tokens.contains(id));
        let (length, finish) = match end {
            Some(end) => (end + 1, Finish::Stop),
            None => (24, Finish::Length),
        };
        assert_eq!(stopped.tokens, free.tokens[..length]);
        assert_eq!((stopped.logprobs.len(), stopped.finish), (length, finish));
        finishes.push(finish);
    }
    assert!(finishes.contains(&Finish::Stop), "{finishes:?}");
}

#[test]
fn every_sampled_token_is_reported_once() {
    let model = tiny();
    let prompts = prompts();
    let mut reported = 0;
    let config = config(Sampling::default(), 12, many_stop_tokens());
    let answers = generate(&model, &groups(&prompts, 3), &config, &mut |n| {
        reported += n
    })
    .unwrap();
    let tokens: usize = answers
        .iter()
        .flatten()
        .map(|answer| answer.tokens.len())
        .sum();
    assert_eq!(reported, tokens);
}

#[test]
fn a_group_may_have_no_keys_and_a_batch_may_be_empty() {
    let model = tiny();
    let prompts = prompts();
    let mut groups = groups(&prompts[..2], 2);
    groups[0].keys.clear();
    let config = config(Sampling::default(), 3, vec![]);
    let answers = run(&model, &groups, &config);
    assert_eq!(answers.iter().map(Vec::len).collect::<Vec<_>>(), [0, 2]);
    assert!(run(&model, &[], &config).is_empty());
}

#[test]
fn inputs_that_cannot_be_continued_are_named() {
    let model = tiny();
    let long = prompt(121, 0);
    let fine = || config(Sampling::default(), 8, vec![]);
    let warm = Sampling {
        temperature: -1.0,
        ..Sampling::default()
    };
    let rows: &[(&[u32], GenerationConfig, &str)] = &[
        (&[], fine(), "the prompt is empty"),
        (
            &[1, 256],
            fine(),
            "token id 256 is outside the vocabulary of 256 entries (0 to 255)",
        ),
        (
            &[1],
            config(Sampling::default(), 0, vec![]),
            "`max_new_tokens` is 0, but must be at least 1",
        ),
        (
            &long,
            fine(),
            "the prompt has 121 tokens and a response may have 8, but the model's context holds 128",
        ),
        (
            &[1],
            config(warm, 8, vec![]),
            "`temperature` is -1, but must be",
        ),
    ];
    for (prompt, config, expected) in rows {
        let good = PromptGroup {
            prompt: &[5],
            keys: vec![StreamKey::default()],
            prefix_group: 0,
        };
        let bad = PromptGroup {
            prompt,
            ..good.clone()
        };
        let outcome = generate(&model, &[good, bad], config, &mut |_| {
            panic!("nothing may run")
        });
        let message = outcome.unwrap_err().to_string();
        assert!(message.contains(expected), "{message}\nlacks: {expected}");
    }
    let fits = PromptGroup {
        prompt: &long[..120],
        keys: vec![StreamKey::default()],
        prefix_group: 0,
    };
    assert_eq!(run(&model, &[fits], &fine())[0][0].tokens.len(), 8);
}

#[test]
fn in_bf16_the_policy_is_nearly_the_same() {
    let model = tiny();
    let Ok(rounded) = model.clone().with_precision(Precision::Bf16) else {
        return;
    };
    let prompts = prompts();
    let (groups, config) = (groups(&prompts, 2), config(Sampling::default(), 12, vec![]));
    let answers = run(&rounded, &groups, &config);
    for (prompt, answers) in prompts.iter().zip(answers) {
        for answer in answers {
            let group = PackedGroup::new(prompt, vec![&answer.tokens]).unwrap();
            let exact = to_host(score_group(&model, &group, 1.0).unwrap());
            let gaps = answer
                .logprobs
                .iter()
                .zip(exact)
                .map(|(a, b)| (a - b).abs());
            let mean = gaps.sum::<f32>() / answer.tokens.len() as f32;
            // Rounding keeps eight bits of a weight; logits here are around 10.
            assert!(mean > 0.0 && mean < 0.1, "{mean}");
        }
    }
}

/// Rollout and training are one policy: in bfloat16 they even round in the same places. Prompts of odd and even
/// lengths, longer and shorter than a block of queries, with a window and without.
#[test]
fn responses_are_scored_as_they_were_sampled_whatever_the_backward_pass_needs() {
    for model in kinds() {
        let longest = model.config().max_positions - 30;
        for length in [1, 24, 33, 67, 75]
            .into_iter()
            .filter(|length| *length <= longest)
        {
            let prompt = prompt(length, 3);
            let groups = groups(std::slice::from_ref(&prompt), 3);
            let answers = run(&model, &groups, &config(Sampling::default(), 30, vec![]));
            let responses = answers[0].iter().map(|answer| answer.tokens.as_slice());
            let group = PackedGroup::new(&prompt, responses.collect()).unwrap();
            for activations in [Activations::Keep, Activations::Recompute] {
                let scored = ScoredGroup::new(&model, &group, 1.0, activations).unwrap();
                let sampled = answers[0].iter().flat_map(|answer| &answer.logprobs);
                for (sampled, scored) in sampled.zip(scored.logprobs()) {
                    let gap = (sampled - scored).abs();
                    assert!(gap < 3e-5, "{:?} {activations:?}: {gap}", model.precision());
                }
            }
        }
    }
}
