//! A whole step's report, against its definitions.

mod choices;

use std::sync::Arc;

use burn::{
    module::{ModuleVisitor, Param},
    tensor::{DType, Tensor},
};
use polyphony_episode::Task;
use polyphony_model::{LoraConfig, Sampling};

use super::*;
use crate::{
    agent::Language,
    config::{AdvantageScale, Aggregation, Baseline, Schedule},
    fixture::{CONTEXT, Duet, lengths, plain_language, task, tiny_model, weight_bits},
    rollout::{LongPrompts, RolloutWeights},
};

/// Two agents with these stop tokens.
fn team(stop_tokens: Vec<u32>) -> [Agent; 2] {
    let language = Arc::new(Language {
        stop_tokens,
        ..plain_language()
    });
    ["first", "second"].map(|name| Agent::new(name, tiny_model(), Arc::clone(&language)))
}

fn config(algorithm: Algorithm) -> StepConfig {
    StepConfig {
        responses: ResponseConfig {
            sampling: Sampling::default(),
            max_new_tokens: 40,
            weights: RolloutWeights::Full,
            long_prompts: LongPrompts::Fail,
        },
        steps: 10,
        key: StreamKey {
            seed: 5,
            ..StreamKey::default()
        },
        algorithm,
        updates: Updates {
            buffer: 2,
            minibatch: 2,
            ..Updates::default()
        },
    }
}

fn step(agents: &mut [Agent], tasks: &[Task], config: &StepConfig) -> (Step, Vec<Progress>) {
    let indexed: Vec<IndexedTask<'_>> = tasks
        .iter()
        .enumerate()
        .map(|(index, task)| IndexedTask { index, task })
        .collect();
    let mut told = Vec::new();
    let step = train_step(
        agents,
        &Duet::new(lengths),
        &indexed,
        config,
        &mut |progress| {
            told.push(progress);
        },
    );
    (step.unwrap(), told)
}

fn close(own: f64, expected: f64) {
    assert!((own - expected).abs() < 1e-9, "{own} is not {expected}");
}

#[test]
fn the_report_says_what_happened() {
    // With many stop tokens responses differ in length, and so do rewards.
    let mut agents = team((0..256).step_by(8).collect());
    let before = agents.each_ref().map(|agent| weight_bits(&agent.model));
    let tasks = [task("a", "one"), task("b", "another")];
    let (Step { report, rollout }, told) = step(&mut agents, &tasks, &config(Algorithm::default()));

    let sampled: usize = told
        .iter()
        .map(|progress| match progress {
            Progress::Sampled(tokens) => *tokens,
            Progress::Updating(_) => 0,
        })
        .sum();
    assert_eq!(report.sampled_tokens, sampled);
    assert_eq!(
        told[told.len() - 2..],
        [Progress::Updating(0), Progress::Updating(1)]
    );

    let actions = 8.0;
    let mut total = 0.0;
    for (index, agent) in report.agents.iter().enumerate() {
        let samples: Vec<_> = rollout
            .nodes
            .iter()
            .flat_map(|node| &node.groups[index].samples)
            .collect();
        let tokens: f64 = samples.iter().map(|s| s.response.tokens.len() as f64).sum();
        let logprobs: f64 = samples
            .iter()
            .flat_map(|s| &s.logprobs)
            .map(|&l| f64::from(l))
            .sum();
        let cut = samples.iter().filter(|s| s.is_truncated()).count() as f64;
        close(agent.overall.response_tokens, tokens / actions);
        close(agent.overall.entropy, -logprobs / tokens);
        close(agent.overall.truncated_share, cut / actions);
        close(
            agent.overall.zero_advantage_share,
            agent.update.skipped_groups as f64 / 2.0,
        );
        close(report.first_turn().parts[index].1, tokens / actions);
        assert_eq!(agent.turns.len(), 1);
        assert_eq!(agent.turns[0], agent.overall);
        assert_eq!(agent.name, ["first", "second"][index]);
        assert!(agent.update.logprob_gap.unwrap() < 1e-4, "{agent:?}");
        assert_eq!(agent.update.steps, 1);
        total += tokens / actions;
    }
    close(report.first_turn().mean_return, total);
    assert_eq!(report.first_turn().nodes, 2);
    // Both agents share the returns, so their advantages spread alike.
    close(
        report.agents[0].overall.advantage_spread,
        report.agents[1].overall.advantage_spread,
    );
    for (agent, before) in agents.iter().zip(&before) {
        assert_ne!(&weight_bits(&agent.model), before, "{} learned", agent.name);
    }
}

#[test]
fn a_step_whose_tasks_are_all_left_out_has_no_mean_and_changes_nothing() {
    let mut agents = team(vec![]);
    let before = agents.each_ref().map(|agent| weight_bits(&agent.model));
    let mut config = config(Algorithm::default());
    config.responses.long_prompts = LongPrompts::Skip;
    let tasks = [task("long", &"word ".repeat(CONTEXT))];
    let (Step { report, .. }, _) = step(&mut agents, &tasks, &config);
    assert_eq!((report.skipped_tasks, report.sampled_tokens), (1, 0));
    let first = report.first_turn();
    assert!(first.mean_return.is_nan() && first.parts.iter().all(|part| part.1.is_nan()));
    for (agent, before) in agents.iter().zip(&before) {
        assert_eq!(&weight_bits(&agent.model), before);
    }
}

#[test]
fn the_baseline_decides_what_is_learned_from() {
    // Without stop tokens all responses are equally long, and so is every reward.
    let tasks = [task("a", "one"), task("b", "another")];
    for (baseline, zero_share, steps) in [(Baseline::GroupMean, 1.0, 0), (Baseline::Zero, 0.0, 1)] {
        let mut agents = team(vec![]);
        let algorithm = Algorithm {
            baseline,
            ..Algorithm::default()
        };
        let (Step { report, .. }, _) = step(&mut agents, &tasks, &config(algorithm));
        for agent in &report.agents {
            assert_eq!(
                agent.overall.zero_advantage_share, zero_share,
                "{baseline:?}"
            );
            assert_eq!(agent.update.steps, steps, "{baseline:?}");
        }
    }
}

#[test]
fn one_agent_in_all_roles_learns_from_each() {
    let language = Language {
        stop_tokens: (0..256).step_by(8).collect(),
        ..plain_language()
    };
    let mut agents = [Agent::new("both", tiny_model(), Arc::new(language))];
    let before = weight_bits(&agents[0].model);
    let tasks = [task("a", "one"), task("b", "another")];
    let (Step { report, .. }, told) = step(&mut agents, &tasks, &config(Algorithm::default()));
    let names: Vec<&str> = report.agents.iter().map(|a| a.name.as_str()).collect();
    assert_eq!(names, ["first", "second"]);
    assert_eq!(told[told.len() - 1], Progress::Updating(0));
    for agent in &report.agents {
        assert_eq!(agent.update, report.agents[0].update, "there is one update");
        assert_eq!((agent.update.steps, agent.update.skipped_groups), (1, 0));
        assert!(agent.update.logprob_gap.unwrap() < 1e-4, "{agent:?}");
    }
    assert_ne!(weight_bits(&agents[0].model), before);

    // Four groups are two nodes of two roles, one node a minibatch.
    let mut config = config(Algorithm::default());
    config.updates.minibatch = 1;
    let (Step { report, .. }, _) = step(&mut agents, &tasks, &config);
    assert_eq!(report.agents[0].update.steps, 2);
}

#[test]
fn settings_that_cannot_work_are_refused_before_anything_is_sampled() {
    let mut agents = team(vec![]);
    let tasks = [task("a", "one")];
    let indexed = [IndexedTask {
        index: 0,
        task: &tasks[0],
    }];
    let mut wrong = [config(Algorithm::default()), config(Algorithm::default())];
    wrong[0].updates.minibatch = 0;
    wrong[1].algorithm.samples = 1;
    for (config, key) in wrong.iter().zip(["minibatch", "samples"]) {
        let environment = Duet::new(lengths);
        let outcome = train_step(&mut agents, &environment, &indexed, config, &mut |_| {
            panic!("something was done")
        });
        let message = outcome.unwrap_err().to_string();
        assert!(message.starts_with(&format!("`{key}` is ")), "{message}");
    }
}

#[test]
fn a_model_that_computes_no_numbers_stops_the_step() {
    let mut agents = team(vec![]);
    agents[1].model = crate::fixture::changed(&agents[1].model, 1, 7, |_| f32::NAN);
    let tasks = [task("a", "one")];
    let indexed = [IndexedTask {
        index: 0,
        task: &tasks[0],
    }];
    let config = config(Algorithm::default());
    let environment = Duet::new(lengths);
    let outcome = train_step(&mut agents, &environment, &indexed, &config, &mut |_| {});
    let message = outcome.unwrap_err().to_string();
    assert!(message.contains("logits are not finite"), "{message}");
}

#[test]
fn judging_subtracts_the_baseline_from_the_credits() {
    let node = crate::returns::tests::node(&[1.0, 2.0, 6.0]);
    let algorithm = Algorithm {
        samples: 3,
        ..Algorithm::default()
    };
    for agent in [0, 1] {
        let judged = judge(&[&node], &[agent], &algorithm);
        assert_eq!(judged[0].advantages, [-2.0, -1.0, 3.0]);
    }
}

#[test]
fn rounded_weights_are_for_the_rollout_alone() {
    let tasks = [task("a", "hello"), task("b", "the letter")];
    let gaps = [RolloutWeights::Full, RolloutWeights::Bf16].map(|weights| {
        let mut agents = team(vec![]);
        let lora = LoraConfig::default();
        agents[1].model = agents[1].model.clone().with_lora(&lora, 1, 0).unwrap();
        let mut config = config(Algorithm::default());
        config.responses.weights = weights;
        config.updates.logprob_tolerance = 1.0;
        let (done, _) = step(&mut agents, &tasks, &config);
        for agent in &agents {
            agent.model.visit_weights(&mut Full);
        }
        let updates = done.report.agents.into_iter().map(|agent| agent.update);
        updates
            .map(|update| update.logprob_gap.unwrap())
            .collect::<Vec<_>>()
    });
    let [full, rounded] = gaps;
    assert!(full.iter().all(|&gap| gap < 1e-5), "{full:?}");
    // Eight bits of a weight are kept.
    assert!(
        rounded.iter().all(|&gap| gap > 1e-3 && gap < 0.5),
        "{rounded:?}"
    );
}

/// Sees that every weight is in full precision.
struct Full;

impl ModuleVisitor for Full {
    fn visit_float<const D: usize>(&mut self, weight: &Param<Tensor<D>>) {
        assert_eq!(weight.val().dtype(), DType::F32);
    }
}
