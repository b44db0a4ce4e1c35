//! What an algorithm's choices change: each against its formula.

use super::*;
use crate::{
    config::{Credit, JointMode, Kl, Objective},
    fixture::Chain,
};

/// Weights of both agents after a step with this algorithm.
fn after(algorithm: &Algorithm, environment: &dyn Environment) -> (Vec<Vec<Vec<u32>>>, Rollout) {
    let mut agents = team((0..256).step_by(8).collect()).map(Agent::with_reference);
    let tasks = [task("a", "one"), task("b", "another")];
    let indexed = [0, 1].map(|index| IndexedTask {
        index,
        task: &tasks[index],
    });
    let mut config = config(algorithm.clone());
    config.responses.max_new_tokens = 8;
    // Steps that depend on the length of the gradient, too.
    config.updates = Updates {
        learning_rate: 1e-3,
        beta_1: 0.0,
        beta_2: 0.0,
        epsilon: 1.0,
        max_gradient_norm: 1e9,
        ..config.updates
    };
    let done = train_step(&mut agents, environment, &indexed, &config, &mut |_| ()).unwrap();
    let weights = agents.iter().map(|agent| weight_bits(&agent.model));
    (weights.collect(), done.rollout)
}

#[test]
fn on_one_rollout_every_choice_teaches_something_else() {
    let cross = |change: fn(&mut Algorithm)| {
        let mut algorithm = Algorithm {
            joint_mode: JointMode::Cross,
            samples: 3,
            discount: 0.5,
            ..Algorithm::default()
        };
        change(&mut algorithm);
        algorithm
    };
    let choices = [
        cross(|_| ()),
        cross(|a| a.baseline = Baseline::LeaveOneOut),
        cross(|a| a.baseline = Baseline::GroupMax),
        cross(|a| a.baseline = Baseline::Zero),
        cross(|a| a.credit = Credit::Sum),
        cross(|a| a.discount = 0.9),
        cross(|a| a.advantage_scale = AdvantageScale::StandardDeviation { floor: 1e-4 }),
        cross(|a| a.aggregation = Aggregation::TokenMean),
        cross(|a| a.aggregation = Aggregation::FixedLength),
        cross(|a| a.mask_truncated = true),
    ];
    let game = Chain::new(&["first", "second"]);
    let all: Vec<_> = choices.iter().map(|choice| after(choice, &game)).collect();
    for (index, (weights, rollout)) in all.iter().enumerate() {
        assert_eq!(rollout.nodes, all[0].1.nodes, "the same was played");
        for (other, (others, _)) in all.iter().enumerate().skip(index + 1) {
            for (agent, (own, their)) in weights.iter().zip(others).enumerate() {
                assert!(
                    own != their,
                    "agent {agent}: {:?} and {:?}",
                    choices[index],
                    choices[other]
                );
            }
        }
    }
}

#[test]
fn a_divergence_from_the_reference_counts_once_there_is_one() {
    let duet = Duet::new(lengths);
    let with = |kl| Algorithm {
        kl,
        ..Algorithm::default()
    };
    let coefficient = 0.3;
    let mut agents = team((0..256).step_by(8).collect()).map(Agent::with_reference);
    let tasks = [task("a", "one")];
    let indexed = [IndexedTask {
        index: 0,
        task: &tasks[0],
    }];
    let mut play = |kl, step| {
        let mut config = config(with(kl));
        config.updates.buffer = 1;
        config.updates.minibatch = 1;
        config.updates.learning_rate = 1e-3;
        config.key.step = step;
        train_step(&mut agents, &duet, &indexed, &config, &mut |_| ()).unwrap()
    };
    let first = play(Kl::Loss { coefficient }, 0);
    let kl = |step: &Step| {
        let updates = step.report.agents.iter().map(|agent| &agent.update);
        updates
            .map(|update| update.drift.unwrap().kl.unwrap())
            .collect::<Vec<_>>()
    };
    // At first a policy is its own reference, in training up to what packing rounds off.
    assert!(kl(&first).iter().all(|kl| kl.abs() < 1e-8), "{first:?}");
    let second = play(Kl::Reward { coefficient }, 1);
    assert!(kl(&second).iter().all(|kl| *kl > 1e-5), "{second:?}");
    let node = &second.rollout.nodes[0];
    for (role, group) in node.groups.iter().enumerate() {
        let credits: Vec<f64> = group
            .samples
            .iter()
            .zip(&node.branches)
            .map(|(sample, branch)| {
                assert_eq!(sample.reference_logprobs.len(), sample.logprobs.len());
                branch.reward.total() - coefficient * sample.divergence()
            })
            .collect();
        let center = credits.iter().sum::<f64>() / credits.len() as f64;
        let judged = node_advantages(node, role, &with(Kl::Reward { coefficient }));
        for (own, credit) in judged.iter().zip(&credits) {
            close(*own, credit - center);
        }
    }
}

#[test]
fn what_cannot_work_together_is_refused_before_anything_is_sampled() {
    let tasks = [task("a", "one")];
    let indexed = [IndexedTask {
        index: 0,
        task: &tasks[0],
    }];
    let refused = |config: &StepConfig, expected: &str| {
        let outcome = train_step(
            &mut team(vec![]),
            &Chain::new(&["first", "second"]),
            &indexed,
            config,
            &mut |_| panic!("something was done"),
        );
        let message = outcome.unwrap_err().to_string();
        assert!(message.starts_with(expected), "{message}");
    };
    let mut again = config(Algorithm::default());
    again.updates.epochs = 2;
    refused(&again, "`epochs` is 2, but must be 1");
    let large = Algorithm {
        samples: 41,
        ..Algorithm::default()
    };
    refused(
        &config(large),
        "`samples` is 41 with `joint_mode: Aligned` for 2 roles and 3 turns",
    );
    let pulled = Algorithm {
        kl: Kl::Loss { coefficient: 0.1 },
        ..Algorithm::default()
    };
    refused(&config(pulled), "agent `first` keeps no reference");
}

#[test]
fn an_agent_collects_nodes_over_steps_until_its_buffer_is_full() {
    let mut agents = team((0..256).step_by(8).collect());
    let tasks = [task("a", "one"), task("b", "another")];
    let mut config = config(Algorithm::default());
    config.updates.buffer = 3;
    let mut rollouts = Vec::new();
    let mut before = agents.each_ref().map(|agent| weight_bits(&agent.model));
    for index in 0..4 {
        config.key.step = index;
        let (Step { report, rollout }, _) = step(&mut agents, &tasks, &config);
        // Two nodes a step: with the second there are four, which is enough.
        let updates = index % 2 == 1;
        for (agent, before) in agents.iter().zip(&before) {
            assert_eq!(
                weight_bits(&agent.model) != *before,
                updates,
                "step {index}"
            );
            assert_eq!(agent.buffer.len(), if updates { 0 } else { 2 });
        }
        for agent in &report.agents {
            assert_eq!(agent.update.steps, if updates { 2 } else { 0 });
            assert_eq!(agent.update.logprob_gap.is_some(), updates);
        }
        before = agents.each_ref().map(|agent| weight_bits(&agent.model));
        rollouts.push(rollout);
    }

    // The same as if all four had been played in one step.
    let mut together = team((0..256).step_by(8).collect());
    for pair in rollouts.chunks(2) {
        let nodes: Vec<&Node> = pair.iter().flat_map(|rollout| &rollout.nodes).collect();
        for (role, agent) in together.iter_mut().enumerate() {
            let buffer = judge(&nodes, &[role], &config.algorithm);
            let config = config.update(agent, 1);
            update(agent, &buffer, &config).unwrap();
        }
    }
    for (one, other) in agents.iter().zip(&together) {
        assert!(weight_bits(&one.model) == weight_bits(&other.model));
    }
}

#[test]
fn agents_have_their_own_learning_rates_and_schedules_count_steps() {
    let mut agents = team((0..256).step_by(8).collect());
    let tasks = [task("a", "one"), task("b", "another")];
    let mut config = config(Algorithm::default());
    config.updates.learning_rate = 1e-4;
    config.updates.learning_rates = [("second".to_owned(), 4e-4)].into();
    config.updates.schedule = Schedule::Linear { last: 0.0 };
    config.steps = 4;
    config.key.step = 1;
    let (Step { report, .. }, _) = step(&mut agents, &tasks, &config);
    for (agent, rate) in report.agents.iter().zip([0.75e-4, 3e-4]) {
        close(agent.update.learning_rate, rate);
    }
}

#[test]
fn at_once_or_in_turn_agents_learn_the_same() {
    let tasks = [task("a", "one"), task("b", "another")];
    let config = config(Algorithm::default());
    let trained = [InTurn, AtOnce].map(|order| {
        let mut agents = team((0..256).step_by(8).collect());
        let indexed = [0, 1].map(|index| IndexedTask {
            index,
            task: &tasks[index],
        });
        let rollout = rollout(
            &agents,
            &Duet::new(lengths),
            &indexed,
            &config.rollout(),
            &mut |_| (),
        )
        .unwrap();
        let nodes: Vec<&Node> = rollout.nodes.iter().collect();
        for (role, agent) in agents.iter_mut().enumerate() {
            agent.buffer = judge(&nodes, &[role], &config.algorithm);
        }
        let mut told = Vec::new();
        let reports = update_full(&mut agents, 2, &config, order, &mut |p| told.push(p)).unwrap();
        assert_eq!(told, [Progress::Updating(0), Progress::Updating(1)]);
        assert!(reports.iter().all(|report| report.steps == 1));
        agents.map(|agent| weight_bits(&agent.model))
    });
    assert!(trained[0] == trained[1]);
    assert_eq!(Order::of(&team(vec![])), InTurn, "both are on the CPU");
}

#[test]
fn updates_at_once_need_no_second_thread_and_a_single_agent_none_at_once() {
    let tasks = [task("a", "one"), task("b", "another")];
    let config = config(Algorithm::default());
    let only = rayon::ThreadPoolBuilder::new().num_threads(1);
    let reports = only.build().unwrap().install(|| {
        let mut agents = team((0..256).step_by(8).collect());
        let indexed = [0, 1].map(|index| IndexedTask {
            index,
            task: &tasks[index],
        });
        let game = Duet::new(lengths);
        let rollout = rollout(&agents, &game, &indexed, &config.rollout(), &mut |_| ()).unwrap();
        let nodes: Vec<&Node> = rollout.nodes.iter().collect();
        for (role, agent) in agents.iter_mut().enumerate() {
            agent.buffer = judge(&nodes, &[role], &config.algorithm);
        }
        update_full(&mut agents, 2, &config, AtOnce, &mut |_| ()).unwrap()
    });
    assert!(reports.iter().all(|report| report.steps == 1));
    let one = team(vec![]).into_iter().next();
    assert_eq!(
        Order::of(one.as_slice()),
        InTurn,
        "nobody is there to be at once with"
    );
}

#[test]
fn clipping_and_epochs_go_through_a_step() {
    let algorithm = Algorithm {
        objective: Objective::Clipped {
            low: 0.2,
            high: 0.2,
        },
        ..Algorithm::default()
    };
    let mut config = config(algorithm);
    config.updates.epochs = 3;
    let mut agents = team((0..256).step_by(8).collect());
    let tasks = [task("a", "one"), task("b", "another")];
    let (Step { report, .. }, _) = step(&mut agents, &tasks, &config);
    for agent in &report.agents {
        assert_eq!(agent.update.steps, 3);
        let drift = agent.update.drift.unwrap();
        assert!(drift.ratio > 0.5 && drift.ratio < 1.5, "{drift:?}");
    }
}
