//! One agent's update, against finite differences and in every case in which it must not happen.

mod descent;
mod grpo;

use polyphony_episode::{FinishReason, Observation, Response};

use polyphony_model::Activations;

use super::*;
use crate::{
    config::{Aggregation, Objective},
    fixture::{agent, changed, weight_bits},
    tree::{History, Sample},
};

/// A group of two responses to a prompt, with the log-probabilities that the agent gives them.
fn group(agent: &Agent, salt: u32) -> AgentGroup {
    let ids = |n: u32, factor: u32| {
        (0..n)
            .map(|i| (i * factor + salt) % 256)
            .collect::<Vec<u32>>()
    };
    let prompt = ids(9, 31);
    let sample = |tokens: Vec<u32>| {
        let packed = PackedGroup::new(&prompt, vec![&tokens]).unwrap();
        let logprobs = score_group(&agent.model, &packed, 1.0).unwrap();
        Sample {
            logprobs: logprobs.into_data().try_into_vec().unwrap(),
            reference_logprobs: vec![],
            response: Response {
                text: "".into(),
                tokens: tokens.into(),
                finish: FinishReason::Stop,
            },
        }
    };
    let samples = vec![sample(ids(6, 57)), sample(ids(11, 101))];
    AgentGroup {
        observation: Observation::new(""),
        history: History { tokens: prompt },
        samples,
    }
}

fn judged(group: &AgentGroup, advantages: [f64; 2]) -> JudgedGroup {
    JudgedGroup {
        group: group.clone(),
        advantages: advantages.to_vec(),
    }
}

/// The longest response.
const MAX_NEW_TOKENS: usize = 16;

fn run(
    agent: &mut Agent,
    buffer: &[JudgedGroup],
    updates: &Updates,
) -> Result<UpdateReport, MarlError> {
    run_with(agent, buffer, updates, &Algorithm::default())
}

fn run_with(
    agent: &mut Agent,
    buffer: &[JudgedGroup],
    updates: &Updates,
    algorithm: &Algorithm,
) -> Result<UpdateReport, MarlError> {
    let config = UpdateConfig {
        algorithm,
        updates,
        learning_rate: updates.learning_rate,
        minibatch: updates.minibatch,
        temperature: 1.0,
        max_new_tokens: MAX_NEW_TOKENS,
    };
    update(agent, buffer, &config)
}

#[test]
fn groups_without_advantage_are_skipped_and_counted() {
    let mut after = agent("a");
    let before = weight_bits(&after.model);
    let (one, two) = (group(&after, 3), group(&after, 90));
    let updates = Updates {
        buffer: 3,
        ..Updates::default()
    };
    let idle = [judged(&one, [0.0, 0.0]), judged(&two, [0.0, 0.0])];
    let report = run(&mut after, &idle, &updates).unwrap();
    assert_eq!(
        report,
        UpdateReport {
            skipped_groups: 2,
            learning_rate: updates.learning_rate,
            logprob_gap: report.logprob_gap,
            ..UpdateReport::default()
        }
    );
    assert!(
        report.logprob_gap.unwrap() < 1e-4,
        "rollout and training are compared all the same"
    );
    assert_eq!(weight_bits(&after.model), before);

    let mixed = [judged(&one, [0.0, 0.0]), judged(&two, [1.0, -1.0])];
    let report = run(&mut after, &mixed, &updates).unwrap();
    assert_eq!(
        (report.skipped_groups, report.steps, report.refused),
        (1, 1, 0)
    );
    assert_ne!(weight_bits(&after.model), before);
}

#[test]
fn a_pull_back_to_the_reference_teaches_where_rewards_do_not() {
    let mut after = agent("a").with_reference();
    let before = weight_bits(&after.model);
    let mut group = group(&after, 3);
    for sample in &mut group.samples {
        sample.reference_logprobs = sample.logprobs.iter().map(|l| l - 0.5).collect();
    }
    let updates = Updates::default();
    let with = |kl| Algorithm {
        kl,
        ..Algorithm::default()
    };
    let idle = [judged(&group, [0.0, 0.0])];
    let reward = with(Kl::Reward { coefficient: 0.1 });
    let report = run_with(&mut after, &idle, &updates, &reward).unwrap();
    assert_eq!((report.skipped_groups, report.drift), (1, None));
    assert_eq!(weight_bits(&after.model), before);
    let loss = with(Kl::Loss { coefficient: 0.1 });
    let report = run_with(&mut after, &idle, &updates, &loss).unwrap();
    assert_eq!((report.skipped_groups, report.steps), (0, 1));
    let drift = report.drift.unwrap();
    let k3 = (-0.5f64).exp() + 0.5 - 1.0;
    assert!((drift.kl.unwrap() - k3).abs() < 1e-4, "{drift:?}");
    assert!((drift.ratio - 1.0).abs() < 1e-4, "{drift:?}");
    assert_ne!(weight_bits(&after.model), before);
}

#[test]
fn epochs_go_through_the_buffer_again_and_bounds_hold_tokens_back() {
    let groups = [3, 90].map(|salt| group(&agent("a"), salt));
    let buffer = groups.each_ref().map(|group| judged(group, [1.0, -1.0]));
    let algorithm = Algorithm {
        objective: Objective::Clipped {
            low: 0.01,
            high: 0.01,
        },
        ..Algorithm::default()
    };
    let run = |epochs| {
        let updates = Updates {
            learning_rate: 1e-3,
            buffer: 2,
            epochs,
            ..Updates::default()
        };
        run_with(&mut agent("a"), &buffer, &updates, &algorithm).unwrap()
    };
    let (once, thrice) = (run(1), run(3));
    assert_eq!((once.steps, thrice.steps), (2, 6));
    let [once, thrice] = [once, thrice].map(|report| report.drift.unwrap());
    assert!(
        once.clipped_share < thrice.clipped_share,
        "{once:?}, {thrice:?}"
    );
    assert!(thrice.clipped_share > 0.3, "{thrice:?}");
    assert_eq!(thrice.kl, None);
}

#[test]
fn a_buffer_that_teaches_nothing_shows_a_broken_model_all_the_same() {
    let mut agent = agent("poet");
    let group = group(&agent, 3);
    agent.model = changed(&agent.model, 1, 7, |_| f32::NAN);
    let report = run(
        &mut agent,
        &[judged(&group, [0.0, 0.0])],
        &Updates::default(),
    )
    .unwrap();
    assert_eq!((report.refused, report.logprob_gap), (1, None));
}

#[test]
fn a_group_whose_responses_are_all_masked_is_skipped() {
    let mut after = agent("a");
    let before = weight_bits(&after.model);
    let mut group = group(&after, 3);
    let updates = Updates {
        logprob_tolerance: 10.0,
        ..Updates::default()
    };
    let masking = Algorithm {
        mask_truncated: true,
        ..Algorithm::default()
    };
    for sample in &mut group.samples {
        sample.response.finish = FinishReason::Length;
    }
    let buffer = [judged(&group, [1.0, -1.0])];
    let report = run_with(&mut after, &buffer, &updates, &masking).unwrap();
    assert_eq!((report.steps, report.skipped_groups), (0, 1));
    assert_eq!(weight_bits(&after.model), before);
    let report = run(&mut after, &buffer, &updates).unwrap();
    assert_eq!((report.steps, report.skipped_groups), (1, 0));
}

#[test]
fn adapters_learn_and_the_weights_below_them_stay() {
    for activations in [Activations::Keep, Activations::Recompute] {
        let mut agent = agent("a");
        let lora = polyphony_model::LoraConfig::default();
        agent.model = agent.model.clone().with_lora(&lora, 3, 0).unwrap();
        let named = |agent: &Agent| crate::fixture::weights(&agent.model);
        let before = named(&agent);
        let group = group(&agent, 3);
        let updates = Updates {
            activations,
            learning_rate: 1e-2,
            logprob_tolerance: 10.0,
            ..Updates::default()
        };
        for _ in 0..2 {
            run(&mut agent, &[judged(&group, [1.0, -1.0])], &updates).unwrap();
        }
        for ((name, old), (_, new)) in before.iter().zip(named(&agent)) {
            let changed = *old != new;
            assert_eq!(
                changed,
                name.contains(".adapter."),
                "{name}, {activations:?}"
            );
        }
    }
}

#[test]
fn minibatches_are_of_nearly_one_length() {
    let judged = judged(&group(&agent("a"), 3), [1.0, -1.0]);
    for (buffer, groups, expected) in [
        (6, 5, vec![6]),
        (6, 2, vec![2, 2, 2]),
        (7, 2, vec![2, 2, 3]),
        (11, 4, vec![5, 6]),
        (3, 5, vec![3]),
    ] {
        let buffer = vec![judged.clone(); buffer];
        let lengths: Vec<usize> = minibatches(&buffer, groups).map(<[_]>::len).collect();
        assert_eq!(lengths, expected);
    }
}

#[test]
fn every_minibatch_is_a_step() {
    for (minibatch, steps) in [(1, 3), (2, 1), (3, 1)] {
        let mut agent = agent("a");
        let groups = [3, 90, 200].map(|salt| group(&agent, salt));
        let buffer: Vec<_> = groups
            .iter()
            .map(|group| judged(group, [1.0, -1.0]))
            .collect();
        let updates = Updates {
            buffer: 3,
            minibatch,
            ..Updates::default()
        };
        assert_eq!(run(&mut agent, &buffer, &updates).unwrap().steps, steps);
    }
}

#[test]
fn an_update_that_is_not_finite_is_refused_counted_and_in_the_end_an_error() {
    let mut agent = agent("poet");
    let group = group(&agent, 3);
    let buffer = [judged(&group, [1.0, -1.0])];
    let healthy = agent.model.clone();
    let poisoned = changed(&healthy, 1, 7, |_| f32::NAN);
    let updates = Updates {
        max_nonfinite: 3,
        ..Updates::default()
    };
    agent.model = poisoned.clone();
    let report = run(&mut agent, &buffer, &updates).unwrap();
    assert_eq!(
        (report.steps, report.refused, report.gradient_norm),
        (0, 1, 0.0)
    );
    assert_eq!(weight_bits(&agent.model), weight_bits(&poisoned));
    run(&mut agent, &buffer, &updates).unwrap();

    // A good update in between starts the count anew.
    agent.model = healthy;
    assert_eq!(run(&mut agent, &buffer, &updates).unwrap().steps, 1);
    agent.model = poisoned.clone();
    for _ in 0..2 {
        assert_eq!(run(&mut agent, &buffer, &updates).unwrap().refused, 1);
    }
    let message = run(&mut agent, &buffer, &updates).unwrap_err().to_string();
    let expected = "agent `poet`: 3 updates in a row were refused because the loss or gradient was \
                    not finite";
    assert!(message.starts_with(expected), "{message}");
    assert_eq!(weight_bits(&agent.model), weight_bits(&poisoned));
}

#[test]
fn rollout_and_training_must_agree_on_log_probabilities() {
    let mut agent = agent("poet");
    let mut group = group(&agent, 3);
    let updates = Updates {
        logprob_tolerance: 0.1,
        ..Updates::default()
    };
    let report = run(&mut agent, &[judged(&group, [1.0, -1.0])], &updates).unwrap();
    assert!(report.logprob_gap.unwrap() < 1e-4, "{report:?}");

    let mut agent = crate::fixture::agent("poet");
    let before = weight_bits(&agent.model);
    group.samples[1].logprobs[4] += 0.25;
    let error = run(&mut agent, &[judged(&group, [1.0, -1.0])], &updates).unwrap_err();
    let message = error.to_string();
    for part in [
        "agent `poet` on ",
        "differs by 0.2500",
        "`logprob_tolerance` 0.1",
    ] {
        assert!(message.contains(part), "{message}\nlacks: {part}");
    }
    assert_eq!(weight_bits(&agent.model), before);

    // After the first gradient step the weights are no longer those of the rollout.
    let fine = crate::update::tests::group(&agent, 90);
    let updates = Updates {
        buffer: 2,
        ..updates
    };
    let buffer = [judged(&fine, [1.0, -1.0]), judged(&group, [1.0, -1.0])];
    assert!(
        run(&mut agent, &buffer, &updates)
            .unwrap()
            .logprob_gap
            .unwrap()
            < 1e-4
    );
}
