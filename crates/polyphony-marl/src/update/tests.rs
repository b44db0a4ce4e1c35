//! One agent's update: compared with finite differences, and every case in which it must not happen.

mod descent;
mod grpo;

use polyphony_episode::{FinishReason, Observation, Response};

use polyphony_model::Activations;

use super::*;
use crate::{
    fixture::{agent, changed, weight_bits},
    policy_loss::{Aggregation, Kl, Objective, PolicyLoss, PolicyStats},
    policy_update::{PolicyUpdate, update_policy},
    reference::score_reference,
    tree::{History, Sample},
};

/// A group of two responses to a prompt, with their log-probabilities under the agent's policy.
fn group(agent: &Agent, salt: u32) -> RoleGroup {
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
            reference_logprobs: None,
            advantage: None,
            response: Response {
                text: "".into(),
                tokens: tokens.into(),
                finish: FinishReason::Stop,
            },
        }
    };
    let samples = vec![sample(ids(6, 57)), sample(ids(11, 101))];
    RoleGroup {
        observation: Observation::new(""),
        history: History {
            tokens: prompt.into(),
        },
        value: None,
        samples,
    }
}

/// The group with these advantages.
fn with_advantages(group: &RoleGroup, advantages: [f64; 2]) -> RoleGroup {
    let mut group = group.clone();
    for (sample, advantage) in group.samples.iter_mut().zip(advantages) {
        sample.advantage = Some(advantage);
    }
    group
}

/// The longest response.
const MAX_NEW_TOKENS: usize = 16;

/// What an update did, and how far the policy moved.
type UpdateResult = (UpdateReport, Option<PolicyStats>);

fn run(
    agent: &mut Agent,
    learner: &mut Learner,
    buffer: &[RoleGroup],
    updates: &Updates,
) -> Result<UpdateReport, MarlError> {
    let loss = PolicyLoss::default();
    run_with(agent, learner, buffer, updates, &loss).map(|(report, _)| report)
}

fn run_with(
    agent: &mut Agent,
    learner: &mut Learner,
    buffer: &[RoleGroup],
    updates: &Updates,
    loss: &PolicyLoss,
) -> Result<UpdateResult, MarlError> {
    let update = PolicyUpdate {
        updates,
        learning_rate: updates.learning_rate,
        buffer: updates.buffer,
        minibatch: updates.minibatch,
        temperature: 1.0,
        max_new_tokens: MAX_NEW_TOKENS,
        shuffle: StreamKey::default(),
    };
    update_policy(agent, learner, buffer, loss, &update)
}

/// The same for an agent that has not learned yet.
fn run_first(
    agent: &mut Agent,
    buffer: &[RoleGroup],
    updates: &Updates,
    loss: &PolicyLoss,
) -> Result<UpdateResult, MarlError> {
    run_with(agent, &mut Learner::default(), buffer, updates, loss)
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
    let idle = [
        with_advantages(&one, [0.0, 0.0]),
        with_advantages(&two, [0.0, 0.0]),
    ];
    let mut learner = Learner::default();
    let report = run(&mut after, &mut learner, &idle, &updates).unwrap();
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
        "rollout and training are compared nevertheless"
    );
    assert_eq!(weight_bits(&after.model), before);

    let mixed = [
        with_advantages(&one, [0.0, 0.0]),
        with_advantages(&two, [1.0, -1.0]),
    ];
    let report = run(&mut after, &mut learner, &mixed, &updates).unwrap();
    assert_eq!(
        (report.skipped_groups, report.steps, report.skipped),
        (1, 1, 0)
    );
    assert_ne!(weight_bits(&after.model), before);
}

#[test]
fn kl_in_the_loss_gives_a_gradient_even_if_all_advantages_are_zero() {
    let mut after = agent("a");
    let before = weight_bits(&after.model);
    let mut group = group(&after, 3);
    for sample in &mut group.samples {
        sample.reference_logprobs = Some(sample.logprobs.iter().map(|l| l - 0.5).collect());
    }
    let updates = Updates::default();
    let with = |kl| PolicyLoss {
        kl,
        ..PolicyLoss::default()
    };
    let idle = [with_advantages(&group, [0.0, 0.0])];
    let reward = with(Kl::Reward { coefficient: 0.1 });
    let (report, stats) = run_first(&mut after, &idle, &updates, &reward).unwrap();
    assert_eq!((report.skipped_groups, stats), (1, None));
    assert_eq!(weight_bits(&after.model), before);
    let loss = with(Kl::Loss { coefficient: 0.1 });
    let (report, stats) = run_first(&mut after, &idle, &updates, &loss).unwrap();
    assert_eq!((report.skipped_groups, report.steps), (0, 1));
    let stats = stats.unwrap();
    let k3 = (-0.5f64).exp() + 0.5 - 1.0;
    assert!((stats.kl.unwrap() - k3).abs() < 1e-4, "{stats:?}");
    assert!((stats.ratio - 1.0).abs() < 1e-4, "{stats:?}");
    assert_ne!(weight_bits(&after.model), before);
}

#[test]
fn epochs_go_through_the_buffer_again_and_bounds_clip_tokens() {
    let groups = [3, 90].map(|salt| group(&agent("a"), salt));
    let buffer = groups
        .each_ref()
        .map(|group| with_advantages(group, [1.0, -1.0]));
    let loss = PolicyLoss {
        objective: Objective::Clipped {
            low: 0.01,
            high: 0.01,
        },
        ..PolicyLoss::default()
    };
    let run = |epochs| {
        let updates = Updates {
            learning_rate: 1e-3,
            buffer: 2,
            epochs,
            ..Updates::default()
        };
        run_first(&mut agent("a"), &buffer, &updates, &loss).unwrap()
    };
    let (once, thrice) = (run(1), run(3));
    assert_eq!((once.0.steps, thrice.0.steps), (2, 6));
    let [once, thrice] = [once, thrice].map(|(_, stats)| stats.unwrap());
    assert!(
        once.clip_fraction < thrice.clip_fraction,
        "{once:?}, {thrice:?}"
    );
    assert!(thrice.clip_fraction > 0.3, "{thrice:?}");
    assert_eq!(thrice.kl, None);
}

#[test]
fn a_broken_model_is_noticed_even_if_all_advantages_are_zero() {
    let mut agent = agent("poet");
    let group = group(&agent, 3);
    agent.model = changed(&agent.model, 1, 7, |_| f32::NAN);
    let idle = [with_advantages(&group, [0.0, 0.0])];
    let report = run(
        &mut agent,
        &mut Learner::default(),
        &idle,
        &Updates::default(),
    )
    .unwrap();
    assert_eq!((report.skipped, report.logprob_gap), (1, None));
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
    let masking = PolicyLoss {
        mask_truncated: true,
        ..PolicyLoss::default()
    };
    for sample in &mut group.samples {
        sample.response.finish = FinishReason::Length;
    }
    let buffer = [with_advantages(&group, [1.0, -1.0])];
    let (report, _) = run_first(&mut after, &buffer, &updates, &masking).unwrap();
    assert_eq!((report.steps, report.skipped_groups), (0, 1));
    assert_eq!(weight_bits(&after.model), before);
    let report = run(&mut after, &mut Learner::default(), &buffer, &updates).unwrap();
    assert_eq!((report.steps, report.skipped_groups), (1, 0));
}

#[test]
fn adapters_learn_and_the_base_weights_stay() {
    for activations in [Activations::Keep, Activations::Recompute] {
        let mut agent = agent("a");
        let lora = polyphony_model::LoraConfig::default();
        agent.model = agent.model.clone().with_lora(&lora, 3, 0).unwrap();
        let weights = |agent: &Agent| crate::fixture::weights(&agent.model);
        let before = weights(&agent);
        let group = group(&agent, 3);
        let updates = Updates {
            activations,
            learning_rate: 1e-2,
            logprob_tolerance: 10.0,
            ..Updates::default()
        };
        let mut learner = Learner::default();
        for _ in 0..2 {
            let buffer = [with_advantages(&group, [1.0, -1.0])];
            run(&mut agent, &mut learner, &buffer, &updates).unwrap();
        }
        for ((name, old), (_, new)) in before.iter().zip(weights(&agent)) {
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
fn minibatches_have_nearly_the_same_size() {
    for (buffer, groups, expected) in [
        (6, 5, vec![6]),
        (6, 2, vec![2, 2, 2]),
        (7, 2, vec![2, 2, 3]),
        (11, 4, vec![5, 6]),
        (3, 5, vec![3]),
    ] {
        let parts = minibatches(buffer, groups, 1, StreamKey::default()).unwrap();
        assert_eq!(parts.iter().map(Vec::len).collect::<Vec<_>>(), expected);
        assert!(
            parts.concat().into_iter().eq(0..buffer),
            "in the buffer's order"
        );
    }
}

#[test]
fn each_of_several_epochs_has_its_own_order() {
    let orders = |key: u8| {
        let parts = minibatches(9, 3, 4, StreamKey([key; 32])).unwrap();
        assert_eq!(parts.len(), 12);
        let epochs = parts.chunks(3).map(<[_]>::concat);
        epochs.collect::<Vec<_>>()
    };
    let (first, second) = (orders(1), orders(2));
    assert_eq!(first, orders(1));
    for (index, order) in first.iter().enumerate() {
        let mut sorted = order.clone();
        sorted.sort_unstable();
        assert!(sorted.into_iter().eq(0..9), "each group once");
        assert!(!first[..index].contains(order) && !second.contains(order));
    }
}

#[test]
fn a_minibatch_of_no_groups_is_an_error() {
    let group = with_advantages(&group(&agent("a"), 3), [1.0, -1.0]);
    let updates = Updates {
        minibatch: 0,
        ..Updates::default()
    };
    let error = run(&mut agent("a"), &mut Learner::default(), &[group], &updates).unwrap_err();
    assert_eq!(
        error.to_string(),
        "`minibatch` is 0, but must be at least 1"
    );
}

#[test]
fn a_sample_without_advantage_and_a_divergence_without_reference_are_errors() {
    let mut agent = agent("a");
    let group = group(&agent, 3);
    let updates = Updates::default();
    let loss = PolicyLoss::default();
    let error = run_first(&mut agent, std::slice::from_ref(&group), &updates, &loss).unwrap_err();
    assert!(error.to_string().contains("no advantage"), "{error}");

    let with_kl = PolicyLoss {
        kl: Kl::Loss { coefficient: 0.1 },
        ..loss
    };
    let mut buffer = [with_advantages(&group, [1.0, -1.0])];
    let error = run_first(&mut agent, &buffer, &updates, &with_kl).unwrap_err();
    assert!(
        error.to_string().contains("no reference has scored"),
        "{error}"
    );
    let reference = agent.model.clone();
    score_reference(&reference, &mut buffer[0], 1.0).unwrap();
    let (report, stats) = run_first(&mut agent, &buffer, &updates, &with_kl).unwrap();
    assert_eq!(report.steps, 1);
    assert!(stats.unwrap().kl.unwrap().abs() < 1e-6);
}

/// A custom loss of log-probabilities and hidden states.
#[test]
fn a_custom_loss_falls_over_gradient_steps() {
    let mut agent = agent("a");
    let group = group(&agent, 3);
    let updates = Updates {
        learning_rate: 1e-2,
        ..Updates::default()
    };
    let config = GradientStepConfig {
        updates: &updates,
        learning_rate: 1e-2,
        temperature: 1.0,
        hidden_states: HiddenStates::EndOfHistory,
    };
    let (mut learner, mut report) = (Learner::default(), UpdateReport::default());
    let mut losses = Vec::new();
    for _ in 0..8 {
        let outcome = gradient_step(
            &mut agent,
            &mut learner,
            &[&group],
            &config,
            &mut report,
            &mut |index, scores| {
                assert_eq!((index, scores.logprobs.len()), (0, 17));
                let loss: f32 = scores.hidden_states.iter().sum();
                losses.push(f64::from(loss));
                Ok(GroupLoss {
                    loss: loss.into(),
                    logprob_derivatives: vec![0.0; scores.logprobs.len()],
                    hidden_state_derivatives: vec![1.0; scores.hidden_states.len()],
                })
            },
        );
        assert!(matches!(outcome.unwrap(), StepOutcome::Taken { norm } if norm > 0.0));
    }
    assert!(losses[7] < losses[0] - 0.1, "{losses:?}");
    assert_eq!((learner.gradient_steps, report.steps), (8, 8));
    let empty = &mut |_, _: &GroupScores<'_>| Ok(GroupLoss::default());
    let outcome =
        gradient_step(&mut agent, &mut learner, &[], &config, &mut report, empty).unwrap();
    assert_eq!(outcome, StepOutcome::Empty);
}

#[test]
fn every_minibatch_is_a_step() {
    for (minibatch, steps) in [(1, 3), (2, 1), (3, 1)] {
        let mut agent = agent("a");
        let groups = [3, 90, 200].map(|salt| group(&agent, salt));
        let buffer: Vec<_> = groups
            .iter()
            .map(|group| with_advantages(group, [1.0, -1.0]))
            .collect();
        let updates = Updates {
            buffer: 3,
            minibatch,
            ..Updates::default()
        };
        let report = run(&mut agent, &mut Learner::default(), &buffer, &updates);
        assert_eq!(report.unwrap().steps, steps);
    }
}

#[test]
fn updates_that_are_not_finite_are_skipped_and_counted_and_too_many_are_an_error() {
    let mut agent = agent("poet");
    let group = group(&agent, 3);
    let buffer = [with_advantages(&group, [1.0, -1.0])];
    let healthy = agent.model.clone();
    let poisoned = changed(&healthy, 1, 7, |_| f32::NAN);
    let updates = Updates {
        max_skipped_updates: 3,
        ..Updates::default()
    };
    let mut learner = Learner::default();
    agent.model = poisoned.clone();
    let report = run(&mut agent, &mut learner, &buffer, &updates).unwrap();
    assert_eq!(
        (report.steps, report.skipped, report.grad_norm),
        (0, 1, 0.0)
    );
    assert_eq!(weight_bits(&agent.model), weight_bits(&poisoned));
    run(&mut agent, &mut learner, &buffer, &updates).unwrap();

    // A finite update in between resets the count.
    agent.model = healthy;
    assert_eq!(
        run(&mut agent, &mut learner, &buffer, &updates)
            .unwrap()
            .steps,
        1
    );
    agent.model = poisoned.clone();
    for _ in 0..2 {
        let report = run(&mut agent, &mut learner, &buffer, &updates).unwrap();
        assert_eq!(report.skipped, 1);
    }
    let error = run(&mut agent, &mut learner, &buffer, &updates).unwrap_err();
    let message = error.to_string();
    let expected = "agent `poet`: 3 gradient steps in a row were skipped because the loss or gradient was \
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
    let run = |agent: &mut Agent, buffer: &[RoleGroup], updates: &Updates| {
        run(agent, &mut Learner::default(), buffer, updates)
    };
    let report = run(
        &mut agent,
        &[with_advantages(&group, [1.0, -1.0])],
        &updates,
    )
    .unwrap();
    assert!(report.logprob_gap.unwrap() < 1e-4, "{report:?}");

    let mut agent = crate::fixture::agent("poet");
    let before = weight_bits(&agent.model);
    group.samples[1].logprobs[4] += 0.25;
    let error = run(
        &mut agent,
        &[with_advantages(&group, [1.0, -1.0])],
        &updates,
    )
    .unwrap_err();
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
    let buffer = [
        with_advantages(&fine, [1.0, -1.0]),
        with_advantages(&group, [1.0, -1.0]),
    ];
    assert!(
        run(&mut agent, &buffer, &updates)
            .unwrap()
            .logprob_gap
            .unwrap()
            < 1e-4
    );
}
