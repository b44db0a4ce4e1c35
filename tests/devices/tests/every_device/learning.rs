//! Teams of two tiny models learn what the reward asks for, and learn nothing if all rewards are equal.

use std::sync::Arc;

use burn::tensor::Device;
use polyphony_device_tests::targets;
use polyphony_episode::{
    Environment, EnvironmentError, JointAction, Metric, Observation, Outcome, Reward, Role, Task,
    Turn,
};
use polyphony_marl::{
    Agent, AlgorithmSettings as _, Baseline, EnvironmentSpec, Magrpo, Step, Team, TrainingConfig,
    Updates, start_tasks, train_step,
};
use polyphony_model::{Activations, LanguageModel, LoraConfig, ModelFiles, sequence_logits};
use polyphony_test_support::{fixture, load, load_on, plain_codec, values, weight_bits};

/// What is rewarded.
#[derive(Clone, Copy, Debug)]
enum Goal {
    /// Each role uses one half of the vocabulary: the first role ids below 128, the second role ids from
    /// 128 on. A reward part is the fraction of a role's tokens in its half.
    OneHalfEach,
    /// This role uses ids below 128. The other role's tokens earn nothing.
    LowHalfOf(usize),
    /// Every joint action has the same reward.
    Constant,
}

/// The names of the roles, and of the parts of the reward.
const ROLES: [&str; 2] = ["low", "high"];

struct Halves {
    roles: [Role; 2],
    parts: [String; 2],
    goal: Goal,
}

impl Environment for Halves {
    fn roles(&self) -> &[Role] {
        &self.roles
    }

    fn reward_parts(&self) -> &[String] {
        &self.parts
    }

    fn start(&self, task: &Task) -> Result<Vec<Observation>, EnvironmentError> {
        Ok(vec![Observation::new(task.field("text")?); 2])
    }

    fn step(
        &self,
        _: &Task,
        _: &[Turn],
        action: &JointAction,
    ) -> Result<Outcome, EnvironmentError> {
        let fraction = |agent: usize, rewarded: fn(u32) -> bool| {
            let tokens = &action.responses[agent].tokens;
            tokens.iter().filter(|&&id| rewarded(id)).count() as f64 / tokens.len() as f64
        };
        let low = |id| id < 128;
        let parts = match self.goal {
            Goal::OneHalfEach => [
                ("low", fraction(0, low)),
                ("high", fraction(1, |id| id >= 128)),
            ],
            Goal::LowHalfOf(role) => [("low", fraction(role, low)), ("high", 0.0)],
            Goal::Constant => [("low", 0.7), ("high", 0.7)],
        };
        Ok(Outcome::end(Reward::new(parts)))
    }
}

fn halves(goal: Goal) -> Halves {
    Halves {
        roles: ROLES.map(Role::new),
        parts: ROLES.map(str::to_owned),
        goal,
    }
}

/// Two agents on the CPU that start with the same weights, in shared memory.
fn team() -> Team {
    team_on(&Device::flex())
}

fn team_on(device: &Device) -> Team {
    team_of(&ROLES, device)
}

fn team_of(names: &[&str], device: &Device) -> Team {
    let model = load_on(device, &fixture("tiny-llama"));
    let codec = Arc::new(plain_codec());
    let agent = |name: &&str| Agent::new(*name, model.clone(), Arc::clone(&codec));
    names.iter().map(agent).collect()
}

fn config(seed: u64) -> TrainingConfig {
    TrainingConfig {
        seed,
        steps: 40,
        max_new_tokens: 8,
        updates: Updates {
            learning_rate: 3e-3,
            warmup_steps: 2,
            buffer: 2,
            minibatch: 2,
            ..Updates::default()
        },
        ..TrainingConfig::default()
    }
}

/// Trains a team; returns every step.
fn train(
    team: &mut Team,
    environment: &dyn Environment,
    steps: usize,
    seed: u64,
    baseline: Baseline,
) -> Vec<Step> {
    train_with(team, environment, steps, baseline, &config(seed))
}

fn train_with(
    team: &mut Team,
    environment: &dyn Environment,
    steps: usize,
    baseline: Baseline,
    config: &TrainingConfig,
) -> Vec<Step> {
    let magrpo = Magrpo {
        samples: 8,
        baseline,
        ..Magrpo::default()
    };
    let algorithm = magrpo.build(team, &EnvironmentSpec::of(environment), config);
    let mut algorithm = algorithm.unwrap();
    let tasks = ["hello", "the letter"].map(|text| Task::new(text, [("text", text)]));
    let tasks = start_tasks(team, environment, tasks.into(), config).unwrap();
    let run_step = |step| {
        let result = train_step(
            team,
            algorithm.as_mut(),
            environment,
            tasks.batch(&[0, 1]),
            config,
            step,
            &mut |_| (),
        );
        result.unwrap()
    };
    (0..steps).map(run_step).collect()
}

/// A metric that must have a value.
#[track_caller]
fn metric(step: &Step, name: &str) -> f64 {
    let value = step.metric(name);
    value.unwrap_or_else(|| panic!("`{name}` has no value"))
}

/// A metric of each role.
fn of_roles(step: &Step, name: &str) -> [f64; 2] {
    ROLES.map(|role| metric(step, &format!("{role}/{name}")))
}

/// The mean of a metric over some steps.
fn mean(steps: &[Step], name: &str) -> f64 {
    let values = steps.iter().map(|step| metric(step, name));
    values.sum::<f64>() / steps.len() as f64
}

#[test]
fn a_team_learns_what_its_shared_reward_asks_of_each_role() {
    let mut team = team();
    let start = weight_bits(&team[0].model);
    let steps = train(
        &mut team,
        &halves(Goal::OneHalfEach),
        40,
        1,
        Baseline::GroupMean,
    );
    let (first, last) = (&steps[..5], &steps[35..]);
    let rise = mean(last, "return") - mean(first, "return");
    assert!(rise > 0.7, "the return rose by {rise}");
    for part in ["reward/low", "reward/high"] {
        let rise = mean(last, part) - mean(first, part);
        assert!(rise > 0.3, "{part} rose by {rise}");
    }
    let [one, two] = [0, 1].map(|agent| weight_bits(&team[agent].model));
    assert!(
        one != start && two != start && one != two,
        "each agent has its own weights"
    );
    for step in &steps {
        for gap in of_roles(step, "logprob_gap") {
            assert!(gap < 1e-3, "{:?}", step.metrics);
        }
    }
}

#[test]
fn a_model_that_plays_both_roles_learns_from_each_of_them() {
    for role in 0..2 {
        let mut team = team_of(&ROLES[..1], &Device::flex());
        // The other role's tokens do not affect the reward, so the model can learn only from this role's.
        let environment = halves(Goal::LowHalfOf(role));
        let steps = train(&mut team, &environment, 20, 1, Baseline::GroupMean);
        let [first, last] = [&steps[..5], &steps[15..]].map(|steps| mean(steps, "return"));
        assert!(
            last - first > 0.25,
            "role {role}: the return went from {first} to {last}"
        );
    }
}

#[test]
fn equal_rewards_change_no_weight() {
    let mut team = team();
    let start = weight_bits(&team[0].model);
    for step in train(
        &mut team,
        &halves(Goal::Constant),
        3,
        1,
        Baseline::GroupMean,
    ) {
        assert_eq!(of_roles(&step, "zero_advantage_fraction"), [1.0; 2]);
        assert_eq!(of_roles(&step, "gradient_steps"), [0.0; 2]);
        assert_eq!(of_roles(&step, "skipped_groups"), [2.0; 2]);
    }
    for agent in &team {
        assert!(weight_bits(&agent.model) == start, "{} changed", agent.name);
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = |seed| {
        let mut team = team();
        let steps = train(
            &mut team,
            &halves(Goal::OneHalfEach),
            3,
            seed,
            Baseline::LeaveOneOut,
        );
        // Timings depend on the clock.
        let metrics: Vec<Metric> = steps
            .into_iter()
            .flat_map(|step| step.metrics)
            .filter(|metric| !metric.key.is_timing())
            .collect();
        (
            metrics,
            team.iter()
                .map(|agent| weight_bits(&agent.model))
                .collect::<Vec<_>>(),
        )
    };
    let (first, again, other) = (run(1), run(1), run(2));
    assert_eq!(first.0, again.0);
    assert!(first.1 == again.1, "the weights differ");
    assert_ne!(first.0, other.0);
}

#[test]
fn every_device_gives_the_same_returns() {
    let lora = LoraConfig::default();
    let configurations = [
        (None, Activations::Keep),
        (None, Activations::Recompute),
        (Some(&lora), Activations::Keep),
        (Some(&lora), Activations::Recompute),
    ];
    for (target, configuration) in targets()
        .iter()
        .flat_map(|target| configurations.map(|configuration| (target, configuration)))
    {
        let (lora, activations) = configuration;
        let name = format!("{}, {configuration:?}", target.name);
        let [on_cpu, on_device] = [&Device::flex(), &target.device].map(|device| {
            let mut team = team_on(device);
            if let Some(lora) = lora {
                for agent in &mut team {
                    agent.model = agent.model.clone().with_lora(lora, 1, 0).unwrap();
                }
            }
            let mut config = config(1);
            config.updates.activations = activations;
            let steps = train_with(
                &mut team,
                &halves(Goal::OneHalfEach),
                2,
                Baseline::GroupMean,
                &config,
            );
            let returns: Vec<f64> = steps.iter().map(|step| metric(step, "return")).collect();
            let of_agents = |name| -> Vec<f64> {
                let steps = steps.iter();
                steps.flat_map(|step| of_roles(step, name)).collect()
            };
            let (updates, norms) = (of_agents("gradient_steps"), of_agents("grad_norm"));
            (returns, updates, norms)
        });
        for updates in [&on_cpu.1, &on_device.1] {
            assert_eq!(
                updates, &[1.0; 4],
                "{name}: every agent learned in every step"
            );
        }
        if !target.precision.same_tokens {
            // The sampled tokens differ, so only check that there are gradients.
            assert!(
                on_device.2.iter().all(|norm| *norm > 0.0),
                "{name}: {:?}",
                on_device.2
            );
            continue;
        }
        assert_eq!(on_cpu.0, on_device.0, "{name}");
        for (expected, norm) in on_cpu.2.iter().zip(&on_device.2) {
            let relative = (norm - expected).abs() / expected;
            assert!(relative < target.precision.norms, "{name}: {relative}");
        }
    }
}

#[test]
fn a_saved_agent_is_the_same_when_it_is_read_again() {
    let mut team = team();
    train(
        &mut team,
        &halves(Goal::OneHalfEach),
        2,
        1,
        Baseline::GroupMean,
    );
    let folder = tempfile::tempdir().unwrap();
    let assets = ModelFiles::open(&fixture("tiny-llama")).unwrap().assets;
    let logits = |model: &LanguageModel| values(sequence_logits(model, &[5, 80, 130]).unwrap());
    let mut all_logits = vec![logits(&load(&fixture("tiny-llama")))];
    for agent in &team {
        let path = folder.path().join(&agent.name);
        agent.model.save(&path, &assets).unwrap();
        let again = load(&path);
        assert!(
            weight_bits(&again) == weight_bits(&agent.model),
            "{}",
            agent.name
        );
        assert_eq!(logits(&again), logits(&agent.model));
        assert!(
            !all_logits.contains(&logits(&again)),
            "{} equals another model",
            agent.name
        );
        all_logits.push(logits(&again));
    }
}
