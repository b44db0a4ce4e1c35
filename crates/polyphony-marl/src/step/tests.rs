//! The metrics of a whole step, compared with their definitions.

use std::sync::Arc;

use burn::{
    module::{ModuleVisitor, Param},
    tensor::{DType, Device, Tensor},
};
use polyphony_episode::{
    Counter, EnvironmentError, JointAction, MetricValue, Observation, Outcome, Reward, Role, Task,
    Turn,
};
use polyphony_model::{LoraConfig, Precision};

use super::*;
use crate::{
    advantage::Baseline,
    agent::{Agent, TextCodec},
    config::{LongPrompts, LrSchedule, Updates},
    fixture::{
        CONTEXT, Duet, built, changed, lengths, plain_codec, task, tiny_model, training,
        weight_bits,
    },
    magrpo::Magrpo,
    tasks::start_tasks,
};

/// Two agents with these stop tokens.
fn team(stop_tokens: Vec<u32>) -> Team {
    let codec = Arc::new(TextCodec {
        stop_tokens,
        ..plain_codec()
    });
    ["first", "second"]
        .map(|name| Agent::new(name, tiny_model(), Arc::clone(&codec)))
        .into()
}

/// Stop tokens that make responses differ in length, and therefore in reward.
fn many_stop_tokens() -> Vec<u32> {
    (0..256).step_by(8).collect()
}

fn config() -> TrainingConfig {
    TrainingConfig {
        updates: Updates {
            buffer: 2,
            minibatch: 2,
            ..Updates::default()
        },
        ..training(40)
    }
}

/// A step of MAGRPO in a game, and the progress that it reported.
fn step_in(
    game: &dyn Environment,
    agents: &mut Team,
    tasks: &[Task],
    settings: &Magrpo,
    config: &TrainingConfig,
    step: usize,
) -> (Step, Vec<Progress>) {
    let mut algorithm = built(settings, agents, game, config).unwrap();
    let started = start_tasks(agents, game, tasks.to_vec(), config).unwrap();
    let all: Vec<usize> = (0..tasks.len()).collect();
    let mut reported = Vec::new();
    let result = train_step(
        agents,
        algorithm.as_mut(),
        game,
        started.batch(&all),
        config,
        step,
        &mut |progress| reported.push(progress),
    );
    (result.unwrap(), reported)
}

fn step(agents: &mut Team, tasks: &[Task], config: &TrainingConfig) -> (Step, Vec<Progress>) {
    let (game, settings) = (Duet::new(lengths), Magrpo::default());
    step_in(&game, agents, tasks, &settings, config, 0)
}

fn tasks() -> [Task; 2] {
    [task("a", "one"), task("b", "another")]
}

fn bits(agents: &[Agent]) -> Vec<Vec<Vec<u32>>> {
    agents
        .iter()
        .map(|agent| weight_bits(&agent.model))
        .collect()
}

#[track_caller]
fn assert_close(actual: f64, expected: f64) {
    assert!(
        (actual - expected).abs() < 1e-9,
        "{actual} is not {expected}"
    );
}

#[track_caller]
fn metric(step: &Step, name: &str) -> f64 {
    step.metric(name).unwrap_or_else(|| panic!("no {name}"))
}

#[test]
fn metrics_agree_with_the_rollout() {
    let mut agents = team(many_stop_tokens());
    let before = bits(&agents);
    let (result, reported) = step(&mut agents, &tasks(), &config());
    let sampled_tokens: usize = reported
        .iter()
        .map(|progress| match progress {
            Progress::Sampled(tokens) => *tokens,
            Progress::RolloutDone | Progress::Updating(_) => 0,
        })
        .sum();
    assert_eq!(metric(&result, "completion_tokens"), sampled_tokens as f64);
    assert_eq!(
        reported[reported.len() - 3..],
        [
            Progress::RolloutDone,
            Progress::Updating(0),
            Progress::Updating(1)
        ]
    );

    let actions = 8.0;
    let mut total = 0.0;
    for (role, name) in ["first", "second"].into_iter().enumerate() {
        let groups = result.rollout.groups_of(&[role]);
        let samples: Vec<_> = groups.iter().flat_map(|group| &group.samples).collect();
        let tokens: f64 = samples.iter().map(|s| s.response.tokens.len() as f64).sum();
        let logprobs = samples.iter().flat_map(|s| &s.logprobs);
        let logprobs: f64 = logprobs.map(|&l| f64::from(l)).sum();
        let truncated = samples.iter().filter(|s| s.is_truncated()).count() as f64;
        let role_metric = |key: &str| metric(&result, &format!("{name}/{key}"));
        assert_close(role_metric("completion_length"), tokens / actions);
        assert_close(role_metric("entropy"), -logprobs / tokens);
        assert_close(role_metric("truncated_fraction"), truncated / actions);
        assert_close(
            role_metric("zero_advantage_fraction"),
            role_metric("skipped_groups") / 2.0,
        );
        assert_close(
            metric(&result, ["reward/one", "reward/two"][role]),
            tokens / actions,
        );
        assert!(role_metric("logprob_gap") < 1e-4);
        assert_eq!(role_metric("gradient_steps"), 1.0);
        assert!(samples.iter().all(|sample| sample.advantage.is_some()));
        total += tokens / actions;
    }
    assert_close(metric(&result, "return"), total);
    // Both agents share the returns, so their advantages have the same standard deviation.
    assert_close(
        metric(&result, "first/advantage_std"),
        metric(&result, "second/advantage_std"),
    );
    for (before, after) in before.iter().zip(bits(&agents)) {
        assert_ne!(*before, after, "it learned");
    }
}

/// Names and order are those in a run's files.
#[test]
fn metrics_have_their_names_and_order() {
    let mut agents = team(many_stop_tokens());
    let (result, _) = step(&mut agents, &tasks(), &config());
    let of_role = [
        "advantage_std",
        "zero_advantage_fraction",
        "entropy",
        "completion_length",
        "truncated_fraction",
        "gradient_steps",
        "grad_norm",
        "learning_rate",
        "skipped_groups",
        "skipped_updates",
        "logprob_gap",
        "ratio",
        "approx_kl",
        "clip_fraction",
        "kl",
    ];
    let team = [
        "return",
        "reward/one",
        "reward/two",
        "completion_tokens",
        "skipped_tasks",
        "cut_episodes",
    ];
    let timing = [
        "rollout_secs",
        "reward_secs",
        "update_secs",
        "tokens_per_sec",
    ];
    let roles = ["first", "second"].into_iter();
    let expected = team
        .map(str::to_owned)
        .into_iter()
        .chain(roles.flat_map(|role| of_role.map(|name| format!("{role}/{name}"))))
        .chain(timing.map(|name| format!("timing.{name}")));
    let names = result.metrics.iter().map(|metric| metric.key.to_string());
    assert_eq!(names.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
    let mut meanings = result.metrics.iter().map(|metric| &metric.meaning);
    assert!(meanings.all(|meaning| !meaning.is_empty()));
}

#[test]
fn a_step_whose_tasks_are_all_left_out_has_no_mean_and_changes_nothing() {
    let mut agents = team(vec![]);
    let before = bits(&agents);
    let config = TrainingConfig {
        long_prompts: LongPrompts::Skip,
        ..config()
    };
    let tasks = [task("long", &"word ".repeat(CONTEXT))];
    let (result, _) = step(&mut agents, &tasks, &config);
    assert_eq!(metric(&result, "skipped_tasks"), 1.0);
    assert_eq!(metric(&result, "completion_tokens"), 0.0);
    for name in [
        "return",
        "reward/one",
        "first/advantage_std",
        "first/entropy",
    ] {
        let metric = result
            .metrics
            .iter()
            .find(|metric| metric.key.to_string() == name);
        let value = metric.map(|metric| metric.value);
        assert!(
            matches!(value, Some(MetricValue::Real(mean)) if mean.is_nan()),
            "{name}: {value:?}"
        );
    }
    assert_eq!(bits(&agents), before);
}

#[test]
fn the_baseline_decides_which_advantages_are_zero() {
    // Without stop tokens all responses have the same length, and therefore the same reward.
    for (baseline, zero, steps) in [(Baseline::GroupMean, 1.0, 0.0), (Baseline::Zero, 0.0, 1.0)] {
        let mut agents = team(vec![]);
        let settings = Magrpo {
            baseline,
            ..Magrpo::default()
        };
        let game = Duet::new(lengths);
        let (result, _) = step_in(&game, &mut agents, &tasks(), &settings, &config(), 0);
        for role in ["first", "second"] {
            let role_metric = |key: &str| metric(&result, &format!("{role}/{key}"));
            assert_eq!(role_metric("zero_advantage_fraction"), zero, "{baseline:?}");
            assert_eq!(role_metric("gradient_steps"), steps, "{baseline:?}");
        }
    }
}

#[test]
fn one_agent_in_all_roles_learns_from_each_role() {
    let codec = TextCodec {
        stop_tokens: many_stop_tokens(),
        ..plain_codec()
    };
    let mut agents = Team::from([Agent::new("both", tiny_model(), Arc::new(codec))]);
    let before = bits(&agents);
    let (result, reported) = step(&mut agents, &tasks(), &config());
    assert_eq!(reported[reported.len() - 1], Progress::Updating(0));
    for role in ["first", "second"] {
        let role_metric = |key: &str| metric(&result, &format!("{role}/{key}"));
        assert_eq!(
            (role_metric("gradient_steps"), role_metric("skipped_groups")),
            (1.0, 0.0)
        );
        assert_eq!(role_metric("grad_norm"), metric(&result, "first/grad_norm"));
        assert!(role_metric("logprob_gap") < 1e-4);
    }
    assert_ne!(bits(&agents), before);

    // Four groups are two nodes of two roles, with one node per minibatch.
    let mut config = config();
    config.updates.minibatch = 1;
    let (result, _) = step(&mut agents, &tasks(), &config);
    assert_eq!(metric(&result, "first/gradient_steps"), 2.0);
}

#[test]
fn a_model_with_logits_that_are_not_finite_stops_the_step() {
    let mut agents = team(vec![]);
    agents[1].model = changed(&agents[1].model, 1, 7, |_| f32::NAN);
    let (game, config) = (Duet::new(lengths), config());
    let mut algorithm = built(&Magrpo::default(), &agents, &game, &config).unwrap();
    let started = start_tasks(&agents, &game, vec![task("a", "one")], &config).unwrap();
    let outcome = train_step(
        &mut agents,
        algorithm.as_mut(),
        &game,
        started.batch(&[0]),
        &config,
        0,
        &mut |_| {},
    );
    let message = outcome.unwrap_err().to_string();
    assert!(message.contains("logits are not finite"), "{message}");
}

#[test]
fn settings_that_cannot_work_are_refused_before_anything_is_sampled() {
    let mut agents = team(vec![]);
    let game = Duet::new(lengths);
    let mut algorithm = built(&Magrpo::default(), &agents, &game, &config()).unwrap();
    let started = start_tasks(&agents, &game, tasks().to_vec(), &config()).unwrap();
    let mut invalid = config();
    invalid.updates.minibatch = 0;
    let outcome = train_step(
        &mut agents,
        algorithm.as_mut(),
        &game,
        started.batch(&[0]),
        &invalid,
        0,
        &mut |_| panic!("the step made progress"),
    );
    let message = outcome.unwrap_err().to_string();
    assert!(message.starts_with("`minibatch` is 0"), "{message}");
}

#[test]
fn agents_have_their_own_learning_rates_and_schedules_count_steps() {
    let mut agents = team(many_stop_tokens());
    let config = TrainingConfig {
        steps: 4,
        updates: Updates {
            learning_rate: 1e-4,
            learning_rates: [("second".to_owned(), 4e-4)].into(),
            schedule: LrSchedule::Linear { last: 0.0 },
            ..config().updates
        },
        ..config()
    };
    let (game, settings) = (Duet::new(lengths), Magrpo::default());
    let (result, _) = step_in(&game, &mut agents, &tasks(), &settings, &config, 1);
    assert_close(metric(&result, "first/learning_rate"), 0.75e-4);
    assert_close(metric(&result, "second/learning_rate"), 3e-4);
}

/// A game that counts its steps, and in which each role has its own reward: the number of its tokens, which
/// is negative for the second role.
struct Rivals(Duet, std::sync::atomic::AtomicUsize);

impl Environment for Rivals {
    fn roles(&self) -> &[Role] {
        self.0.roles()
    }

    fn reward_parts(&self) -> &[String] {
        self.0.reward_parts()
    }

    fn counters(&self) -> Vec<Counter> {
        let total = self.1.load(std::sync::atomic::Ordering::SeqCst) as f64;
        let counter = |name: &'static str, total, unit: &'static str| {
            Counter::new(MetricKey::new(name), total, unit, "Joint actions scored")
        };
        vec![
            counter("timing.rivals_secs", 0.5 * total, "s"),
            counter("rivals/steps", total, "joint actions"),
        ]
    }

    fn start(&self, task: &Task) -> Result<Vec<Observation>, EnvironmentError> {
        self.0.start(task)
    }

    fn step(
        &self,
        _task: &Task,
        _past: &[Turn],
        action: &JointAction,
    ) -> Result<Outcome, EnvironmentError> {
        self.1.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let [one, two] = [0, 1].map(|role| action.responses[role].tokens.len() as f64);
        let rewards = [[("one", one)], [("two", -two)]];
        Ok(Outcome::end(Reward::per_role(rewards)))
    }
}

#[test]
fn each_role_learns_from_its_own_reward() {
    let mut agents = team(many_stop_tokens());
    let game = Rivals(Duet::new(lengths), 5.into());
    let settings = Magrpo::default();
    let (result, _) = step_in(&game, &mut agents, &tasks(), &settings, &config(), 0);
    let node = &result.rollout.roots[0];
    for (role, sign) in [1.0, -1.0].into_iter().enumerate() {
        let lengths: Vec<f64> = node.groups[role]
            .samples
            .iter()
            .map(|sample| sign * sample.response.tokens.len() as f64)
            .collect();
        let mean = lengths.iter().sum::<f64>() / lengths.len() as f64;
        let advantages = node.groups[role].advantages().unwrap();
        for (advantage, length) in advantages.into_iter().zip(lengths) {
            assert_close(advantage, length - mean);
        }
    }
    let tokens = |role: &str| metric(&result, &format!("{role}/completion_length"));
    assert_close(metric(&result, "first/return"), tokens("first"));
    assert_close(metric(&result, "first/reward/one"), tokens("first"));
    assert_close(metric(&result, "first/reward/two"), 0.0);
    assert_close(metric(&result, "second/return"), -tokens("second"));
    assert_close(
        metric(&result, "return"),
        (tokens("first") - tokens("second")) / 2.0,
    );
    // Only the growth in this step is reported.
    let values = result
        .metrics
        .iter()
        .map(|metric| (metric.key.to_string(), metric.value));
    let rivals: Vec<_> = values.filter(|(name, _)| name.contains("rivals")).collect();
    assert_eq!(
        rivals,
        [
            ("rivals/steps".to_owned(), MetricValue::Count(8)),
            ("timing.rivals_secs".to_owned(), MetricValue::Real(4.0)),
        ]
    );
    let last = result.metrics.last().unwrap();
    assert_eq!(last.key.to_string(), "timing.rivals_secs");
}

/// In bfloat16, rollout and training are one policy, as in 32-bit floats, and the weights stay in full precision.
#[test]
fn bf16_agents_learn_from_the_policy_that_they_sample_from() {
    let tasks = [task("a", "hello"), task("b", "the letter")];
    for precision in [Precision::F32, Precision::Bf16] {
        if precision.check(&Device::flex()).is_err() {
            continue;
        }
        let mut agents = team(many_stop_tokens());
        let lora = LoraConfig::default();
        agents[1].model = agents[1].model.clone().with_lora(&lora, 1, 0).unwrap();
        for agent in &mut agents {
            agent.model = agent.model.clone().with_precision(precision).unwrap();
        }
        let (result, _) = step(&mut agents, &tasks, &config());
        for agent in &agents {
            agent.model.visit_weights(&mut FullPrecision);
        }
        for role in ["first", "second"] {
            let gap = metric(&result, &format!("{role}/logprob_gap"));
            assert!(gap < 1e-5, "{role} in {precision:?}: {gap}");
            let steps = metric(&result, &format!("{role}/gradient_steps"));
            assert_eq!(steps, 1.0, "{role} in {precision:?}");
        }
    }
}

/// Checks that every weight is in full precision.
struct FullPrecision;

impl ModuleVisitor for FullPrecision {
    fn visit_float<const D: usize>(&mut self, weight: &Param<Tensor<D>>) {
        assert_eq!(weight.val().dtype(), DType::F32);
    }
}
