//! The critic against brute force and finite differences, and the algorithm through a run.

use std::{collections::HashMap, sync::Arc};

use polyphony_episode::{Environment, Task};
use polyphony_model::{Activations, LoraConfig, Precision, StreamKey, TensorSpec};
use proptest::prelude::*;
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::{
    agent::TextCodec,
    config::{MomentFormat, Updates},
    fixture::{
        Chain, Duet, agent, built, changed, lengths, plain_codec, play, task, tiny_model, training,
        weight_bits, weights,
    },
    returns::properties::{shapes, tree},
    saved_state::StateTensor,
    step::{Step, train_step},
    tasks::start_tasks,
    team::Team,
    tree::Branch,
    update::score,
};

#[test]
fn the_value_loss_is_the_larger_of_the_squared_errors_with_and_without_clipping() {
    for (value, at_rollout, target, loss, derivative) in [
        // Not clipped yet.
        (1.0, 1.0, 3.0, 4.0, -4.0),
        (1.1, 1.0, 3.0, 3.61, -3.8),
        // It has moved further towards the target than allowed: the clipped value counts, which is a
        // constant.
        (2.0, 1.0, 3.0, 3.24, 0.0),
        // It has moved in the wrong direction: its gradient leads back.
        (0.0, 1.0, 3.0, 9.0, -6.0),
    ] {
        let found = value_loss(value, at_rollout, target, Some(0.2));
        assert!((found.0 - loss).abs() < 1e-12, "{found:?}");
        assert!((found.1 - derivative).abs() < 1e-12, "{found:?}");
        let unclipped = value_loss(value, at_rollout, target, None);
        let expected = ((value - target).powi(2), 2.0 * (value - target));
        assert_eq!(unclipped, expected);
    }
}

/// Gives every group an arbitrary value that depends only on the tree.
fn invent_values(node: &mut Node) {
    let node_value = (3.0 * node.branches[0].reward.total()).sin() + node.turn as f64;
    for (role, group) in node.groups.iter_mut().enumerate() {
        group.value = Some(node_value + 0.7 * role as f64);
    }
    for branch in &mut node.branches {
        branch.child.iter_mut().for_each(invent_values);
    }
}

/// Every way in which an episode can continue from a joint action: its probability, and its nodes and
/// joint actions.
fn paths<'a>(node: &'a Node, branch: &'a Branch) -> Vec<(f64, Vec<(&'a Node, &'a Branch)>)> {
    let Some(child) = &branch.child else {
        return vec![(1.0, vec![(node, branch)])];
    };
    let branch_probability = 1.0 / child.branches.len() as f64;
    let later = child.branches.iter().flat_map(|next| paths(child, next));
    later
        .map(|(probability, rest)| {
            (
                branch_probability * probability,
                [vec![(node, branch)], rest].concat(),
            )
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// `A = Σ_k (γλ)^k δ_{t+k}`, in expectation over the joint actions that follow.
    #[test]
    fn advantages_and_targets_are_those_of_enumeration(
        shape in shapes(),
        seed in any::<u64>(),
        discount in 0.0..=1.0f64,
        lambda in prop::sample::select(vec![0.0, 0.4, 1.0]),
        coefficient in prop::option::of(0.01..1.0f64),
    ) {
        let mut root = tree(shape, 0, &mut ChaCha8Rng::seed_from_u64(seed));
        invent_values(&mut root);
        let settings = IndependentActorCritic {
            discount,
            lambda,
            kl: coefficient.map_or(Kl::Off, |coefficient| Kl::Reward { coefficient }),
            ..IndependentActorCritic::default()
        };
        for node in root.nodes() {
            for role in 0..node.groups.len() {
                let found = settings.advantages(node, role).unwrap();
                let value = |node: &Node| node.groups[role].value.unwrap();
                let td_error = |node: &Node, branch: &Branch| {
                    let mut error = branch.reward.total_of(role) - value(node);
                    let sample = &node.groups[role].samples[branch.picks[role]];
                    error -= coefficient.unwrap_or(0.0) * sample.divergence().unwrap();
                    error + branch.child.as_ref().map_or(0.0, |child| discount * value(child))
                };
                let joint_advantage = |branch| {
                    let sums = paths(node, branch).into_iter().map(|(probability, path)| {
                        let terms = path.into_iter().enumerate().map(|(k, (node, branch))| {
                            (discount * lambda).powi(k as i32) * td_error(node, branch)
                        });
                        probability * terms.sum::<f64>()
                    });
                    sums.sum::<f64>()
                };
                for (response, found) in found.into_iter().enumerate() {
                    let branches = node.branches.iter().filter(|b| b.picks[role] == response);
                    let advantages: Vec<f64> = branches.map(joint_advantage).collect();
                    let expected = advantages.iter().sum::<f64>() / advantages.len() as f64;
                    prop_assert!((found - expected).abs() < 1e-9, "{} is not {}", found, expected);
                }
            }
        }
    }

    #[test]
    fn the_derivative_of_the_value_loss_is_that_of_finite_differences(
        value in -3.0..3.0f64,
        at_rollout in -3.0..3.0f64,
        target in -3.0..3.0f64,
    ) {
        const STEP: f64 = 1e-6;
        let loss = |value| value_loss(value, at_rollout, target, Some(0.2)).0;
        // At a bound, and where both errors are equal, the loss has a corner.
        prop_assume!([-0.2, 0.2].iter().all(|by| (value - at_rollout - by).abs() > 1e-4));
        let clipped = value.clamp(at_rollout - 0.2, at_rollout + 0.2);
        prop_assume!(clipped == value
            || ((clipped - target).abs() - (value - target).abs()).abs() > 1e-4);
        let difference = (loss(value + STEP) - loss(value - STEP)) / (2.0 * STEP);
        let derivative = value_loss(value, at_rollout, target, Some(0.2)).1;
        prop_assert!(
            (difference - derivative).abs() < 1e-4, "{} is not {}", derivative, difference
        );
    }
}

/// A head without zero weights.
fn head(shape: HeadShape, width: usize) -> ValueHead {
    let mut head = ValueHead::new(shape, width, StreamKey([3; 32]));
    for (weight_index, weight) in head.weights_mut().iter_mut().enumerate() {
        for (index, value) in weight.iter_mut().enumerate() {
            *value += ((index * 7 + weight_index * 3) % 11) as f32 / 40.0 - 0.11;
        }
    }
    head
}

/// Groups that were sampled by a somewhat different policy, with values and advantages.
fn buffer(agent: &Agent) -> Vec<RoleGroup> {
    let team = Team::from([Agent::new(
        "first",
        agent.model.clone(),
        agent.codec.clone(),
    )]);
    let game = Chain::new(&["first"]);
    let plan = crate::fixture::plan(2);
    let rollout = play(&team, &game, &[task("a", "one")], &plan, &training(7)).unwrap();
    let groups = rollout.groups_of(&[0]).into_iter().take(2).enumerate();
    let groups = groups.map(|(group_index, group)| {
        let mut group = group.clone();
        for (index, sample) in group.samples.iter_mut().enumerate() {
            let shifts = [0.05, 0.3, -0.1, -0.4];
            for (logprob, shift) in sample.logprobs.iter_mut().zip(shifts.iter().cycle()) {
                *logprob += shift;
            }
            sample.advantage = Some([1.0, -0.5, 0.25, -2.0][2 * group_index + index]);
        }
        group.value = Some(0.3 - group_index as f64);
        group
    });
    groups.collect()
}

/// The loss by its definition, in 64-bit floats except for the model's outputs.
fn loss(
    agent: &Agent,
    head: &ValueHead,
    buffer: &[RoleGroup],
    settings: &IndependentActorCritic,
) -> f64 {
    let Objective::Clipped { low, high } = settings.objective else {
        panic!("the test's objective is clipped");
    };
    let (mut policy, mut critic, mut responses) = (0.0, 0.0, 0.0);
    for group in buffer {
        let logprobs = score(&agent.model, group, 1.0).unwrap();
        let state = last_hidden_state(&agent.model, &group.history.tokens).unwrap();
        let (value, at_rollout) = (head.forward(&state).value, group.value.unwrap());
        let mut trained = logprobs.iter();
        for sample in &group.samples {
            let advantage = sample.advantage.unwrap();
            for (&sampled, &trained) in sample.logprobs.iter().zip(trained.by_ref()) {
                let ratio = (f64::from(trained) - f64::from(sampled)).exp();
                let clipped = ratio.max(1.0 - low).min(1.0 + high);
                policy -= (ratio * advantage).min(clipped * advantage);
            }
            let target = at_rollout + advantage;
            let clip = settings.value_clip.unwrap();
            let clipped = value.max(at_rollout - clip).min(at_rollout + clip);
            critic += (value - target).powi(2).max((clipped - target).powi(2));
            responses += 1.0;
        }
    }
    (policy + settings.value_coefficient * critic) / responses
}

/// With decay rates of 0 and this value as `epsilon`, AdamW's step is the gradient itself, scaled.
const ADDEND: f64 = 1e6;

fn check_gradients(shape: HeadShape, activations: Activations) {
    let settings = IndependentActorCritic {
        objective: Objective::Clipped {
            low: 0.2,
            high: 0.3,
        },
        value_head: shape,
        value_clip: Some(0.9),
        ..IndependentActorCritic::default()
    };
    let mut config = training(7);
    config.updates = Updates {
        learning_rate: 1.0,
        epsilon: ADDEND,
        beta_1: 0.0,
        beta_2: 0.0,
        max_grad_norm: 1e9,
        logprob_tolerance: 10.0,
        buffer: 2,
        minibatch: 2,
        activations,
        ..Updates::default()
    };
    let before = agent("a");
    let buffer = buffer(&before);
    let width = before.model.config().hidden_size;
    let start = head(shape, width);
    let (mut after, mut stepped) = (agent("a"), start.clone());
    let spec = EnvironmentSpec {
        roles: vec!["a".to_owned()],
        horizon: 1,
        first_agent: 0,
    };
    let context = StepContext::new(0, &config, &spec);
    let update = PolicyUpdate {
        // Steps whose length is that of the gradient.
        learning_rate: ADDEND,
        ..PolicyUpdate::new(0, &after, 1, &context)
    };
    let (mut learner, rate) = (Learner::default(), update.learning_rate);
    let report = update_actor_and_critic(
        &mut after,
        &mut learner,
        &mut stepped,
        &buffer,
        &settings,
        &update,
        rate,
    );
    assert_eq!(report.unwrap().actor.steps, 1);

    let check = |derivative: f64, largest: f64, loss_at: &dyn Fn(f32) -> f64, name: &str| {
        let by = 2e-3;
        let difference = (loss_at(by) - loss_at(-by)) / f64::from(2.0 * by);
        assert!(
            (difference - derivative).abs() <= 1e-2 * largest,
            "{shape:?}, {activations:?}, {name}: {derivative} is not {difference}"
        );
    };
    let steepest = |gradient: &[f64]| {
        let indices = 0..gradient.len();
        let steepest = indices.max_by(|&a, &b| gradient[a].abs().total_cmp(&gradient[b].abs()));
        (steepest.unwrap(), gradient[steepest.unwrap()].abs())
    };
    let difference = |old: &[f32], new: &[f32]| -> Vec<f64> {
        let pairs = old.iter().zip(new);
        pairs.map(|(old, new)| f64::from(old - new)).collect()
    };
    let pairs = weights(&before.model)
        .into_iter()
        .zip(weights(&after.model));
    for (weight, ((name, old), (_, new))) in pairs.enumerate().step_by(4) {
        let gradient = difference(&old, &new);
        let (index, largest) = steepest(&gradient);
        let loss_at = |by: f32| {
            let model = changed(&before.model, weight, index, |value| value + by);
            let moved = Agent::new("a", model, before.codec.clone());
            loss(&moved, &start, &buffer, &settings)
        };
        check(gradient[index], largest, &loss_at, &name);
    }
    let pairs = start.weights().iter().zip(stepped.weights());
    for (weight, (old, new)) in pairs.enumerate() {
        let gradient = difference(old, new);
        let (steepest, largest) = steepest(&gradient);
        for index in [steepest, gradient.len() / 3] {
            let loss_at = |by: f32| {
                let mut moved = start.clone();
                moved.weights_mut()[weight][index] += by;
                loss(&before, &moved, &buffer, &settings)
            };
            check(gradient[index], largest, &loss_at, "value head");
        }
        assert!(largest > 1e-3, "the head learns");
    }
}

#[test]
fn gradients_of_backbone_and_head_are_those_of_finite_differences() {
    for shape in [HeadShape::Linear, HeadShape::Tanh] {
        for activations in [Activations::Keep, Activations::Recompute] {
            check_gradients(shape, activations);
        }
    }
}

fn team() -> Team {
    team_of(&["first", "second"])
}

fn team_of(names: &[&str]) -> Team {
    let codec = Arc::new(TextCodec {
        stop_tokens: (0..256).step_by(6).collect(),
        ..plain_codec()
    });
    let agent = |name: &&str| Agent::new(*name, tiny_model(), Arc::clone(&codec));
    names.iter().map(agent).collect()
}

fn run_step(
    agents: &mut Team,
    algorithm: &mut dyn Algorithm,
    game: &dyn Environment,
    tasks: &[Task],
    config: &TrainingConfig,
    step: usize,
) -> Step {
    let started = start_tasks(agents, game, tasks.to_vec(), config).unwrap();
    let all: Vec<usize> = (0..tasks.len()).collect();
    let batch = started.batch(&all);
    train_step(agents, algorithm, game, batch, config, step, &mut |_| ()).unwrap()
}

fn config() -> TrainingConfig {
    let mut config = training(6);
    config.updates.learning_rate = 1e-3;
    config
}

#[test]
fn a_step_reports_what_the_critic_expects() {
    let mut agents = team();
    let (game, config) = (Chain::new(&["first", "second"]), config());
    let settings = IndependentActorCritic {
        samples: 2,
        ..IndependentActorCritic::default()
    };
    let mut algorithm = built(&settings, &agents, &game, &config).unwrap();
    let tasks = [task("a", "one"), task("b", "another")];
    let first = run_step(&mut agents, algorithm.as_mut(), &game, &tasks, &config, 0);
    let second = run_step(&mut agents, algorithm.as_mut(), &game, &tasks, &config, 1);
    for role in ["first", "second"] {
        let metric = |step: &Step, name: &str| step.metric(&format!("{role}/{name}"));
        // An untrained critic expects 0, so its targets are the rewards.
        assert_eq!(metric(&first, "value_mean"), Some(0.0));
        let explained = metric(&first, "explained_variance").unwrap();
        assert!(explained.abs() < 1e-9, "{explained}");
        let nodes = first.rollout.all_nodes();
        let branches = nodes.iter().flat_map(|node| &node.branches);
        let rewards: Vec<f64> = branches.map(|branch| branch.reward.total()).collect();
        let mean = rewards.iter().sum::<f64>() / rewards.len() as f64;
        let target = metric(&first, "value_target_mean").unwrap();
        assert!((target - mean).abs() < 1e-9, "{target} is not {mean}");
        assert!(metric(&first, "value_loss").unwrap() > 0.0);
        assert!(
            metric(&second, "value_mean").unwrap() > 0.0,
            "rewards are positive"
        );
        assert!(metric(&second, "gradient_steps").unwrap() > 0.0);
    }
}

/// Everything that a checkpoint keeps.
type Checkpoint = (HashMap<String, Vec<f32>>, AlgorithmState);

fn checkpoint(agents: &[Agent], algorithm: &dyn Algorithm) -> Checkpoint {
    let state = algorithm.state(agents).unwrap();
    let weights = agents.iter().flat_map(|agent| {
        let learned = agent.model.trainable_weights().into_iter();
        learned.map(|(spec, tensor)| (format!("{}/{}", agent.name, spec.name), tensor))
    });
    let values = weights.map(|(name, tensor)| (name, tensor.into_data().try_into_vec().unwrap()));
    (values.collect(), state)
}

#[test]
fn a_restored_team_and_its_critics_continue_as_if_they_had_never_stopped() {
    for (shape, names, moments) in [
        (
            HeadShape::Linear,
            &["first", "second"][..],
            MomentFormat::F32,
        ),
        (HeadShape::Tanh, &["first", "second"], MomentFormat::Int8),
        (HeadShape::Tanh, &["shared"], MomentFormat::F32),
    ] {
        let new_team = || {
            let mut agents = team_of(names);
            let last = agents.last_mut().unwrap();
            let lora = LoraConfig::default();
            last.model = last.model.clone().with_lora(&lora, 1, 0).unwrap();
            agents
        };
        let settings = IndependentActorCritic {
            value_head: shape,
            value_learning_rate: Some(1e-2),
            lambda: 0.5,
            kl: Kl::Loss { coefficient: 0.1 },
            ..IndependentActorCritic::default()
        };
        let game = Duet::new(lengths);
        let mut config = config();
        config.updates.buffer = 2;
        config.updates.moments = moments;
        let tasks = [task("a", "one")];
        let mut whole = new_team();
        let mut algorithm = built(&settings, &whole, &game, &config).unwrap();
        for step in 0..3 {
            run_step(&mut whole, algorithm.as_mut(), &game, &tasks, &config, step);
        }
        let (weights, state) = checkpoint(&whole, algorithm.as_ref());
        let mut resumed = new_team();
        let mut restored = built(&settings, &resumed, &game, &config).unwrap();
        for agent in &mut resumed {
            let name = agent.name.clone();
            let mut read =
                |spec: &TensorSpec| Ok(weights[&format!("{name}/{}", spec.name)].clone());
            agent.model.replace_trainable(&mut read).unwrap();
        }
        let saved = SavedState::new(&state.values, &state, &config.updates);
        restored.restore(&resumed, &saved).unwrap();
        let mut values = Vec::new();
        for step in 3..6 {
            for (agents, algorithm) in [(&mut whole, &mut algorithm), (&mut resumed, &mut restored)]
            {
                let result = run_step(agents, algorithm.as_mut(), &game, &tasks, &config, step);
                values.push(result.metric("second/value_mean").unwrap().to_bits());
            }
        }
        assert!(
            values.chunks(2).all(|pair| pair[0] == pair[1]),
            "{values:?}"
        );
        let last = checkpoint_bits(&whole, algorithm.as_ref());
        assert!(
            last == checkpoint_bits(&resumed, restored.as_ref()),
            "{shape:?}, {names:?}"
        );
        let bits = |agents: &[Agent]| -> Vec<_> {
            agents
                .iter()
                .map(|agent| weight_bits(&agent.model))
                .collect()
        };
        assert!(bits(&whole) == bits(&resumed));
        let head = format!("{}.value_head.output.weight", names[0]);
        let mut tensors = state.tensors.iter();
        assert!(tensors.any(|(spec, _)| spec.name == head), "no {head}");
    }
}

/// The numbers of a state as bits, and its bytes, by name.
fn checkpoint_bits(
    agents: &[Agent],
    algorithm: &dyn Algorithm,
) -> (Vec<(String, Vec<u32>)>, String) {
    let state = algorithm.state(agents).unwrap();
    let bits = |tensor: StateTensor| match tensor {
        StateTensor::Numbers(tensor) => {
            tensor.into_data().iter::<f32>().map(f32::to_bits).collect()
        }
        StateTensor::Bytes(bytes) => bytes.iter().map(|byte| u32::from(*byte)).collect(),
    };
    let tensors = state.tensors.into_iter();
    let tensors = tensors.map(|(spec, tensor)| (spec.name, bits(tensor)));
    (tensors.collect(), state.values)
}

#[test]
fn a_head_of_another_shape_does_not_fit() {
    let (game, config, agents) = (Duet::new(lengths), config(), team());
    let with = |value_head| IndependentActorCritic {
        value_head,
        ..IndependentActorCritic::default()
    };
    let linear = built(&with(HeadShape::Linear), &agents, &game, &config).unwrap();
    let (_, state) = checkpoint(&agents, linear.as_ref());
    let mut tanh = built(&with(HeadShape::Tanh), &agents, &game, &config).unwrap();
    let saved = SavedState::new(&state.values, &state, &config.updates);
    let error = tanh.restore(&agents, &saved).unwrap_err();
    let message = error.to_string();
    assert!(message.contains("its `value_head` is Linear"), "{message}");
}

#[test]
fn settings_out_of_range_are_explained() {
    let refused = |change: fn(&mut IndependentActorCritic), expected: &str| {
        let mut settings = IndependentActorCritic::default();
        change(&mut settings);
        let message = settings.validate(&config()).unwrap_err().to_string();
        assert!(message.starts_with(expected), "{message}");
    };
    refused(|s| s.samples = 0, "`samples` is 0, but must be at least 1");
    refused(
        |s| s.samples = 5000,
        "`samples` is 5000, but must be from 1 to 4096",
    );
    refused(
        |s| s.discount = 1.5,
        "`discount` is 1.5, but must be from 0 to 1",
    );
    refused(
        |s| s.lambda = -0.1,
        "`lambda` is -0.1, but must be from 0 to 1",
    );
    refused(
        |s| s.value_coefficient = 0.0,
        "`value_coefficient` is 0, but must be",
    );
    refused(
        |s| s.value_clip = Some(0.0),
        "`value_clip` is 0, but must be",
    );
    refused(
        |s| s.value_learning_rate = Some(2.0),
        "`value_learning_rate` is 2, but",
    );
    refused(
        |s| s.termination_threshold = Some(f64::NAN),
        "`termination_threshold` is NaN",
    );
    assert_eq!(
        IndependentActorCritic::default().validate(&config()),
        Ok(())
    );
}

#[test]
fn memory_holds_the_critic() {
    let plan = AgentSpec {
        index: 0,
        model: tiny_model().config().clone(),
        lora: None,
        precision: Precision::F32,
        roles: 1,
        shares_initial_weights: false,
        longest_history_tokens: None,
        device: crate::algorithm::ComputeDevice::Cpu,
    };
    let width = plan.model.hidden_size as u64;
    for (value_head, parameters) in [
        (HeadShape::Linear, width + 1),
        (HeadShape::Tanh, width * width + 2 * width + 1),
    ] {
        let settings = IndependentActorCritic {
            value_head,
            ..IndependentActorCritic::default()
        };
        let memory = settings.memory(&plan, &config());
        let critic = memory.lasting.iter().find(|need| need.what == "critic");
        assert_eq!(critic.unwrap().bytes, 12 * parameters);
    }
    let mut config = config();
    config.updates.moments = MomentFormat::Int8;
    let settings = IndependentActorCritic {
        value_head: HeadShape::Tanh,
        ..IndependentActorCritic::default()
    };
    let memory = settings.memory(&plan, &config);
    let critic = memory.lasting.iter().find(|need| need.what == "critic");
    // Only the hidden weights have enough values for codes: 4,096, in two blocks.
    let small = 2 * width + 1;
    let expected = 12 * small + 4 * width * width + 2 * (width * width + 2 * 4);
    assert_eq!(critic.unwrap().bytes, expected);
}
