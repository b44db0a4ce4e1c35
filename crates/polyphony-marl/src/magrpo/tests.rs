//! MAGRPO's settings, its state, and how it behaves in a run.

use std::{collections::HashMap, sync::Arc};

use polyphony_episode::{Environment, Task};
use polyphony_model::{LoraConfig, Precision, TensorSpec};

use super::*;
use crate::{
    agent::TextCodec,
    config::{MomentFormat, Updates},
    fixture::{Chain, Duet, built, lengths, plain_codec, task, tiny_model, training, weight_bits},
    policy_update::{PolicyUpdate, update_policy},
    saved_state::StateTensor,
    step::{Step, train_step},
    tasks::start_tasks,
    team::Team,
    update::Learner,
};

/// Two agents whose responses differ in length.
fn team() -> Team {
    let codec = Arc::new(TextCodec {
        stop_tokens: (0..256).step_by(8).collect(),
        ..plain_codec()
    });
    ["first", "second"]
        .map(|name| Agent::new(name, tiny_model(), Arc::clone(&codec)))
        .into()
}

fn tasks() -> [Task; 2] {
    [task("a", "one"), task("b", "another")]
}

fn bits(agents: &[Agent]) -> Vec<Vec<Vec<u32>>> {
    let weights = agents.iter().map(|agent| weight_bits(&agent.model));
    weights.collect()
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
    TrainingConfig {
        updates: Updates {
            learning_rate: 1e-3,
            buffer: 2,
            minibatch: 2,
            ..Updates::default()
        },
        ..training(30)
    }
}

#[track_caller]
fn assert_close(actual: f64, expected: f64) {
    assert!(
        (actual - expected).abs() < 1e-9,
        "{actual} is not {expected}"
    );
}

/// The weights of both agents after a step with these settings, and the nodes that were played.
fn after_step(settings: &Magrpo, game: &dyn Environment) -> (Vec<Vec<Vec<u32>>>, Vec<Node>) {
    let mut agents = team();
    // With this `epsilon` a step depends on the length of the gradient too.
    let config = TrainingConfig {
        updates: Updates {
            beta_1: 0.0,
            beta_2: 0.0,
            epsilon: 1.0,
            max_grad_norm: 1e9,
            ..config().updates
        },
        ..training(8)
    };
    let mut algorithm = built(settings, &agents, game, &config).unwrap();
    let result = run_step(&mut agents, algorithm.as_mut(), game, &tasks(), &config, 0);
    (bits(&agents), result.rollout.roots)
}

#[test]
fn every_setting_changes_the_update_of_the_same_rollout() {
    let with = |change: fn(&mut Magrpo)| {
        let mut settings = Magrpo {
            joint_mode: JointMode::Cross,
            samples: 3,
            discount: 0.5,
            ..Magrpo::default()
        };
        change(&mut settings);
        settings
    };
    let choices = [
        with(|_| ()),
        with(|a| a.baseline = Baseline::LeaveOneOut),
        with(|a| a.baseline = Baseline::GroupMax),
        with(|a| a.baseline = Baseline::Zero),
        with(|a| a.credit = Credit::Sum),
        with(|a| a.discount = 0.9),
        with(|a| a.advantage_scale = AdvantageScale::StandardDeviation { floor: 1e-4 }),
        with(|a| a.aggregation = Aggregation::TokenMean),
        with(|a| a.aggregation = Aggregation::FixedLength),
        with(|a| a.mask_truncated = true),
    ];
    let game = Chain::new(&["first", "second"]);
    let results: Vec<_> = choices
        .iter()
        .map(|choice| after_step(choice, &game))
        .collect();
    let responses = |nodes: &[Node]| {
        let groups = nodes
            .iter()
            .flat_map(Node::nodes)
            .flat_map(|node| &node.groups);
        let samples = groups.flat_map(|group| &group.samples);
        let responses = samples.map(|sample| sample.response.clone());
        responses.collect::<Vec<_>>()
    };
    for (index, (weights, nodes)) in results.iter().enumerate() {
        assert_eq!(
            responses(nodes),
            responses(&results[0].1),
            "the rollout is the same"
        );
        for (other, (other_weights, _)) in results.iter().enumerate().skip(index + 1) {
            for (agent, (a, b)) in weights.iter().zip(other_weights).enumerate() {
                assert!(
                    a != b,
                    "agent {agent}: {:?} and {:?}",
                    choices[index],
                    choices[other]
                );
            }
        }
    }
}

#[test]
fn a_divergence_from_the_reference_counts_as_soon_as_there_is_one() {
    let duet = Duet::new(lengths);
    let coefficient = 0.3;
    let with = |kl| Magrpo {
        kl,
        ..Magrpo::default()
    };
    let mut config = config();
    (config.updates.buffer, config.updates.minibatch) = (1, 1);
    let mut agents = team();
    // Both keep the policies that the agents start from.
    let [mut loss, mut reward] = [Kl::Loss { coefficient }, Kl::Reward { coefficient }]
        .map(|kl| built(&with(kl), &agents, &duet, &config).unwrap());
    let tasks = [task("a", "one")];
    let kl = |step: &Step, role: &str| step.metric(&format!("{role}/kl")).unwrap();
    let first = run_step(&mut agents, loss.as_mut(), &duet, &tasks, &config, 0);
    let second = run_step(&mut agents, reward.as_mut(), &duet, &tasks, &config, 1);
    for role in ["first", "second"] {
        // At first a policy is its own reference, up to the rounding of packed scoring.
        assert!(kl(&first, role).abs() < 1e-8);
        assert!(kl(&second, role) > 1e-5);
    }
    let node = &second.rollout.roots[0];
    for group in &node.groups {
        let credits: Vec<f64> = group
            .samples
            .iter()
            .zip(&node.branches)
            .map(|(sample, branch)| {
                let reference = sample.reference_logprobs.as_ref().unwrap();
                assert_eq!(reference.len(), sample.logprobs.len());
                branch.reward.total() - coefficient * sample.divergence().unwrap()
            })
            .collect();
        let center = credits.iter().sum::<f64>() / credits.len() as f64;
        for (advantage, credit) in group.advantages().unwrap().iter().zip(&credits) {
            assert_close(*advantage, credit - center);
        }
    }
}

/// If no reference has scored the responses, a divergence is an error. It does not count as 0.
#[test]
fn a_divergence_without_a_reference_is_an_error() {
    let node = crate::returns::tests::node(&[1.0, 2.0, 6.0]);
    let magrpo = Magrpo {
        kl: Kl::Reward { coefficient: 0.1 },
        ..Magrpo::default()
    };
    let error = magrpo.advantages(&node, 0).unwrap_err();
    assert!(
        error.to_string().contains("no reference has scored"),
        "{error}"
    );
    let plain = Magrpo::default();
    for role in [0, 1] {
        assert_eq!(plain.advantages(&node, role).unwrap(), [-2.0, -1.0, 3.0]);
    }
}

#[test]
fn incompatible_settings_are_refused_when_the_algorithm_is_built() {
    let game = Chain::new(&["first", "second"]);
    let refused = |settings: Magrpo, config: &TrainingConfig, expected: &str| {
        let built = built(&settings, &team(), &game, config);
        let message = built.err().unwrap().to_string();
        assert!(message.starts_with(expected), "{message}");
    };
    let mut two_epochs = config();
    two_epochs.updates.epochs = 2;
    refused(
        Magrpo::default(),
        &two_epochs,
        "`updates.epochs` is 2, but must be 1",
    );
    let large = Magrpo {
        samples: 41,
        ..Magrpo::default()
    };
    let expected = "`samples` is 41 with `joint_mode: Aligned` for 2 roles and 3 turns";
    refused(large, &config(), expected);
    let single = Magrpo {
        samples: 1,
        ..Magrpo::default()
    };
    refused(single, &config(), "`samples` is 1, but must be from 2");
}

#[test]
fn methods_have_the_names_of_comparisons() {
    let name = |baseline, roles| {
        let settings = Magrpo {
            baseline,
            ..Magrpo::default()
        };
        settings.method(roles)
    };
    assert_eq!(name(Baseline::GroupMean, 1), "GRPO");
    assert_eq!(name(Baseline::GroupMean, 2), "MAGRPO");
    for (baseline, expected) in [
        (Baseline::LeaveOneOut, "MARLOO"),
        (Baseline::GroupMax, "MAReMax"),
        (Baseline::Zero, "MAREINFORCE"),
    ] {
        assert_eq!(
            (1..4)
                .map(|roles| name(baseline, roles))
                .collect::<Vec<_>>(),
            [expected; 3]
        );
    }
}

#[test]
fn an_agent_collects_nodes_over_steps_until_its_buffer_is_full() {
    let mut agents = team();
    let mut config = config();
    config.updates.buffer = 3;
    let game = Duet::new(lengths);
    let mut algorithm = built(&Magrpo::default(), &agents, &game, &config).unwrap();
    let mut groups = vec![Vec::new(), Vec::new()];
    let mut before = bits(&agents);
    for step in 0..4 {
        let result = run_step(
            &mut agents,
            algorithm.as_mut(),
            &game,
            &tasks(),
            &config,
            step,
        );
        // Each step plays two nodes, so the buffer of three is full in every second step.
        let is_full = step % 2 == 1;
        for (before, after) in before.iter().zip(bits(&agents)) {
            assert_eq!(*before != after, is_full, "step {step}");
        }
        for role in ["first", "second"] {
            let metric = |name: &str| result.metric(&format!("{role}/{name}"));
            let gradient_steps = if is_full { 2.0 } else { 0.0 };
            assert_eq!(metric("gradient_steps"), Some(gradient_steps));
            assert_eq!(metric("logprob_gap").is_some(), is_full);
        }
        for (role, groups) in groups.iter_mut().enumerate() {
            groups.extend(result.rollout.groups_of(&[role]).into_iter().cloned());
        }
        before = bits(&agents);
    }
    assert_eq!(algorithm.gradient_steps(), 8);

    // The same as if all four had been played in one step.
    let mut together = team();
    for (agent, groups) in together.iter_mut().zip(groups) {
        let mut learner = Learner::default();
        let spec = EnvironmentSpec::of(&game);
        for (pair, buffer) in groups.chunks(4).enumerate() {
            let context = StepContext::new(2 * pair + 1, &config, &spec);
            let update = PolicyUpdate::new(0, agent, 1, &context);
            let policy = PolicyLoss::default();
            update_policy(agent, &mut learner, buffer, &policy, &update).unwrap();
        }
    }
    assert!(bits(&agents) == bits(&together));
}

#[test]
fn clipping_and_epochs_go_through_a_step() {
    let settings = Magrpo {
        objective: Objective::Clipped {
            low: 0.2,
            high: 0.2,
        },
        ..Magrpo::default()
    };
    let mut config = config();
    (config.updates.epochs, config.updates.learning_rate) = (3, 1e-5);
    let mut agents = team();
    let game = Duet::new(lengths);
    let mut algorithm = built(&settings, &agents, &game, &config).unwrap();
    let result = run_step(&mut agents, algorithm.as_mut(), &game, &tasks(), &config, 0);
    for role in ["first", "second"] {
        let metric = |name: &str| result.metric(&format!("{role}/{name}")).unwrap();
        assert_eq!(metric("gradient_steps"), 3.0);
        assert!((0.5..1.5).contains(&metric("ratio")));
        // The second and third passes use samples of slightly older weights.
        assert!(metric("approx_kl") > 0.0 && metric("approx_kl") < 0.5);
    }
}

/// Everything that a checkpoint keeps: the agents' weights and the algorithm's state.
type Checkpoint = (HashMap<String, Vec<f32>>, AlgorithmState);

fn checkpoint(agents: &[Agent], algorithm: &dyn Algorithm) -> Checkpoint {
    let state = algorithm.state(agents).unwrap();
    let weights = agents.iter().flat_map(|agent| {
        let weights = agent.model.trainable_weights().into_iter();
        weights.map(|(spec, tensor)| (format!("{}/{}", agent.name, spec.name), tensor))
    });
    let values = weights.map(|(name, tensor)| (name, tensor.into_data().try_into_vec().unwrap()));
    (values.collect(), state)
}

fn restore(
    agents: &mut Team,
    algorithm: &mut dyn Algorithm,
    (weights, state): &Checkpoint,
    updates: &Updates,
) {
    for agent in agents.iter_mut() {
        let name = agent.name.clone();
        let mut read = |spec: &TensorSpec| Ok(weights[&format!("{name}/{}", spec.name)].clone());
        agent.model.replace_trainable(&mut read).unwrap();
    }
    let saved = SavedState::new(&state.values, state, updates);
    algorithm.restore(agents, &saved).unwrap();
}

#[test]
fn a_restored_team_continues_as_if_it_had_never_stopped() {
    check_restored(MomentFormat::F32);
}

#[test]
fn a_restored_team_with_8_bit_moments_continues_as_if_it_had_never_stopped() {
    check_restored(MomentFormat::Int8);
}

fn check_restored(moments: MomentFormat) {
    // The second agent has adapters.
    let new_team = || {
        let mut agents = team();
        let lora = LoraConfig::default();
        agents[1].model = agents[1].model.clone().with_lora(&lora, 1, 0).unwrap();
        agents
    };
    let settings = Magrpo {
        kl: Kl::Loss { coefficient: 0.1 },
        ..Magrpo::default()
    };
    let game = Duet::new(lengths);
    let mut config = config();
    config.updates.minibatch = 1;
    config.updates.moments = moments;
    let tasks = [task("a", "one")];
    let mut whole = new_team();
    let mut algorithm = built(&settings, &whole, &game, &config).unwrap();
    for step in 0..3 {
        run_step(&mut whole, algorithm.as_mut(), &game, &tasks, &config, step);
    }
    // The buffer holds the node of the third step.
    let checkpoint = checkpoint(&whole, algorithm.as_ref());
    let (weights, state) = &checkpoint;
    assert!(
        state.values.contains("gradient_steps:2"),
        "{}",
        state.values
    );
    let mut state_tensors = state.tensors.iter();
    let has_codes = state_tensors.any(|(_, tensor)| matches!(tensor, StateTensor::Bytes(_)));
    assert_eq!(has_codes, moments == MomentFormat::Int8);
    let mut resumed = new_team();
    let mut restored = built(&settings, &resumed, &game, &config).unwrap();
    restore(
        &mut resumed,
        restored.as_mut(),
        &checkpoint,
        &config.updates,
    );
    assert_eq!(restored.gradient_steps(), algorithm.gradient_steps());
    for step in 3..6 {
        run_step(&mut whole, algorithm.as_mut(), &game, &tasks, &config, step);
        run_step(
            &mut resumed,
            restored.as_mut(),
            &game,
            &tasks,
            &config,
            step,
        );
    }
    assert!(bits(&whole) == bits(&resumed));
    let states =
        [algorithm.state(&whole), restored.state(&resumed)].map(|state| state.unwrap().values);
    assert_eq!(states[0], states[1]);
    let moments = state.tensors.iter().map(|(spec, _)| &spec.name);
    let names: Vec<&String> = weights.keys().chain(moments).collect();
    let mut second = names.iter().filter(|name| name.starts_with("second"));
    assert!(second.all(|name| name.contains(".adapter.")), "{names:?}");
}

#[test]
fn a_state_of_another_team_is_refused() {
    let (game, config) = (Duet::new(lengths), config());
    let agents = team();
    let mut algorithm = built(&Magrpo::default(), &agents, &game, &config).unwrap();
    let state = algorithm.state(&agents).unwrap().values;
    let mut refused = |values: &str, expected: &str| {
        let empty = AlgorithmState::default();
        let saved = SavedState::new(values, &empty, &config.updates);
        let restored = algorithm.restore(&agents, &saved);
        let message = restored.unwrap_err().to_string();
        assert!(message.starts_with("the saved state of the algorithm does not fit: "));
        assert!(message.contains(expected), "{message}");
    };
    refused("([],())", "it is the state of 0 agents, but the team has 2");
    refused("([(nothing: 1)],())", "1:");
    let swapped = state.replace("\"first\"", "\"third\"");
    refused(&swapped, "it is the state of agent `third`, not of `first`");
}

#[test]
fn memory_follows_from_model_and_settings() {
    let plan = AgentSpec {
        index: 0,
        model: tiny_model().config().clone(),
        lora: None,
        precision: Precision::F32,
        roles: 1,
        shares_initial_weights: false,
        longest_history_tokens: Some(100),
        device: crate::algorithm::ComputeDevice::Cpu,
    };
    let config = training(96);
    let bytes = |needs: &[MemoryNeed], what: &str| {
        let need = needs.iter().find(|need| need.what == what);
        need.map(|need| need.bytes)
    };
    let weights = 4 * plan.model.weight_count();
    let full = Magrpo::default().memory(&plan, &config);
    assert_eq!(bytes(&full.lasting, "optimizer"), Some(2 * weights));
    assert_eq!(bytes(&full.lasting, "reference"), None);
    assert_eq!(bytes(&full.temporary, "gradients"), Some(weights));
    let lasting: u64 = full.lasting.iter().map(|need| need.bytes).sum();
    assert_eq!(lasting, 2 * weights);

    let with_kl = Magrpo {
        kl: Kl::Loss { coefficient: 0.1 },
        ..Magrpo::default()
    };
    let mut plan = plan;
    let lasting = |plan: &AgentSpec| with_kl.memory(plan, &config).lasting;
    assert_eq!(bytes(&lasting(&plan), "reference"), Some(weights));
    plan.shares_initial_weights = true;
    assert_eq!(bytes(&lasting(&plan), "reference"), Some(0));
    let lora = LoraConfig::default();
    let adapters = 4 * plan.model.adapter_weight_count(&lora);
    (plan.shares_initial_weights, plan.lora) = (false, Some(lora));
    assert_eq!(bytes(&lasting(&plan), "reference"), Some(0));
    assert_eq!(bytes(&lasting(&plan), "optimizer"), Some(2 * adapters));

    let mut int8 = config.clone();
    int8.updates.moments = MomentFormat::Int8;
    let optimizer = |plan: &AgentSpec| {
        let memory = Magrpo::default().memory(plan, &int8);
        bytes(&memory.lasting, "optimizer").unwrap()
    };
    // All adapters of the tiny model are small.
    assert_eq!(optimizer(&plan), 2 * adapters);
    let lora = plan.lora.take();
    let sizes = plan.model.weight_sizes().into_iter();
    let expected = sizes.map(|size| match size.scalars {
        scalars @ 4096.. => size.weights * 2 * (scalars + 4 * scalars.div_ceil(2048)),
        scalars => size.weights * 8 * scalars,
    });
    assert_eq!(optimizer(&plan), expected.sum::<u64>());
    plan.device = crate::algorithm::ComputeDevice::Gpu;
    assert_eq!(optimizer(&plan), 2 * weights);
    (plan.device, plan.lora) = (crate::algorithm::ComputeDevice::Cpu, lora);

    let activations = |plan: &AgentSpec, config: &TrainingConfig| {
        let memory = Magrpo::default().memory(plan, config);
        bytes(&memory.temporary, "activations").unwrap()
    };
    let mut recompute = config.clone();
    recompute.updates.activations = polyphony_model::Activations::Recompute;
    assert!(activations(&plan, &recompute) < activations(&plan, &config));
    plan.longest_history_tokens = None;
    assert_eq!(activations(&plan, &config), 0);
    recompute.updates.minibatch = 2;
    let needs = Magrpo::default().memory(&plan, &recompute).temporary;
    assert_eq!(bytes(&needs, "gradients"), Some(2 * adapters));
}
