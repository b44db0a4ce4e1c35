//! Several ranks that train one team do what one process does.

use std::{collections::BTreeMap, sync::Arc, thread};

use polyphony_model::LoraConfig;

use super::*;
use crate::{
    actor_critic::IndependentActorCritic,
    agent::{Agent, TextCodec},
    algorithm::AlgorithmSettings,
    communicator::{Communicator, SumFormat},
    config::{LongPrompts, MomentFormat},
    fixture::{Chain, Duet, lengths, plain_codec, task, training, weight_bits, wide_model},
    grid::Grid,
    magrpo::Magrpo,
    policy_loss::Kl,
    protocol::Protocol,
    ranks::Ranks,
    tasks::start_tasks,
    thread_ranks::thread_ranks,
    tree::JointMode,
};

/// A team of tiny models in a game.
struct Setup {
    game: Box<dyn Environment>,
    settings: Box<dyn AlgorithmSettings + Sync>,
    config: TrainingConfig,
    tasks: Vec<polyphony_episode::Task>,
    tasks_per_step: usize,
    steps: usize,
    /// Whether the agents train adapters.
    adapters: bool,
    /// One agent plays all roles.
    shared: bool,
    gradients: SumFormat,
}

impl Default for Setup {
    fn default() -> Self {
        let mut config = training(6);
        config.updates.learning_rate = 1e-3;
        Self {
            game: Box::new(Duet::new(lengths)),
            settings: Box::new(Magrpo::default()),
            config,
            tasks: ["one", "another text", "a third", "four", "five"]
                .map(|text| task(text, text))
                .into(),
            tasks_per_step: 2,
            steps: 3,
            adapters: false,
            shared: false,
            gradients: SumFormat::F32,
        }
    }
}

/// What a run leaves behind on one rank.
struct Outcome {
    steps: Vec<Step>,
    /// The bits of the weights of the rank's agents, by name.
    weights: BTreeMap<String, Vec<Vec<u32>>>,
    episodes: Vec<crate::Episode>,
}

impl Setup {
    fn agent(&self, index: usize, name: &str) -> Agent {
        let codec = Arc::new(TextCodec {
            stop_tokens: (0..256).step_by(6).collect(),
            ..plain_codec()
        });
        let mut model = wide_model();
        if self.adapters {
            model = model
                .with_lora(&LoraConfig::default(), 1, index as u32)
                .unwrap();
        }
        Agent::new(name, model, codec)
    }

    fn run(
        &self,
        world: Arc<dyn Communicator>,
        replicas: Option<usize>,
    ) -> Result<Outcome, MarlError> {
        let roles = self.game.roles();
        let names: Vec<&str> = match self.shared {
            true => vec!["shared"],
            false => roles.iter().map(|role| role.name.as_str()).collect(),
        };
        let grid = Grid::new(world.size(), names.len(), replicas).unwrap();
        let ranks = Ranks::new(world, grid, self.gradients)?;
        let held = ranks.agents(names.len());
        let agents = held.map(|index| self.agent(index, names[index])).collect();
        let mut team = Team::on_ranks(agents, names.len(), ranks)?;
        let game = self.game.as_ref();
        let mut algorithm =
            self.settings
                .build(&team, &EnvironmentSpec::of_team(&team, game), &self.config)?;
        let tasks = start_tasks(&team, game, self.tasks.clone(), &self.config)?;
        let mut steps = Vec::new();
        for step in 0..self.steps {
            let indices: Vec<usize> = (0..self.tasks_per_step)
                .map(|task| (step * self.tasks_per_step + task) % tasks.len())
                .collect();
            let result = train_step(
                &mut team,
                algorithm.as_mut(),
                game,
                tasks.batch(&indices),
                &self.config,
                step,
                &mut |_| (),
            );
            steps.push(result?);
        }
        let all: Vec<usize> = (0..tasks.len()).collect();
        let mut episodes = Vec::new();
        for protocol in [Protocol::parallel(), Protocol::pipeline()] {
            let batch = tasks.batch(&all);
            let played =
                crate::play_episodes(&team, game, batch, 2, &protocol, &self.config, &mut |_| ())?;
            episodes.extend(played.played);
            episodes.extend(played.left_out);
        }
        let weights = team
            .iter()
            .map(|agent| (agent.name.clone(), weight_bits(&agent.model)));
        Ok(Outcome {
            steps,
            weights: weights.collect(),
            episodes,
        })
    }

    /// One outcome per rank, in the order of the ranks.
    fn on_ranks(&self, ranks: usize, replicas: Option<usize>) -> Vec<Result<Outcome, MarlError>>
    where
        Self: Sync,
    {
        thread::scope(|scope| {
            let threads: Vec<_> = thread_ranks(ranks)
                .into_iter()
                .map(|world| scope.spawn(move || self.run(world, replicas)))
                .collect();
            let outcomes = threads.into_iter().map(|thread| thread.join().unwrap());
            outcomes.collect()
        })
    }

    fn alone(&self) -> Outcome {
        self.on_ranks(1, None).remove(0).unwrap()
    }
}

fn metrics(step: &Step) -> Vec<String> {
    let metrics = step.metrics.iter().filter(|metric| !metric.key.is_timing());
    metrics
        .map(|metric| format!("{} {:?} {}", metric.key, metric.value.number(), metric.unit))
        .collect()
}

fn lines(step: &Step) -> String {
    serde_json::to_string(&step.rollout).unwrap()
}

/// Agents on ranks of their own are the same as those of one process, to the last bit.
fn check_parts(setup: &Setup) {
    let alone = setup.alone();
    let apart: Vec<Outcome> = setup
        .on_ranks(2, None)
        .into_iter()
        .map(Result::unwrap)
        .collect();
    for (one, first) in alone.steps.iter().zip(&apart[0].steps) {
        assert_eq!(metrics(one), metrics(first));
        assert_eq!(lines(one), lines(first));
    }
    let weights = apart.iter().flat_map(|outcome| outcome.weights.clone());
    let weights: BTreeMap<_, _> = weights.collect();
    assert!(weights == alone.weights, "the weights differ");
    for outcome in &apart {
        assert_eq!(outcome.episodes, alone.episodes);
    }
}

/// Replicas repeat a run to the last bit, and differ from one process by rounding only.
fn check_replicas(setup: &Setup, ranks: usize, replicas: Option<usize>) {
    let alone = setup.alone();
    let run = || -> Vec<Outcome> {
        let outcomes = setup.on_ranks(ranks, replicas).into_iter();
        outcomes.map(Result::unwrap).collect()
    };
    let (first, again) = (run(), run());
    for (one, other) in first.iter().zip(&again) {
        assert!(one.weights == other.weights, "a repeated run differs");
    }
    for outcome in &first {
        for (name, weights) in &outcome.weights {
            assert!(
                *weights == first_weights(&first, name),
                "replicas of {name} differ"
            );
            for (replicated, one) in weights.iter().zip(&alone.weights[name]) {
                for (a, b) in replicated.iter().zip(one) {
                    let (a, b) = (f32::from_bits(*a), f32::from_bits(*b));
                    // A step is at most 1e-3 long; rounding may turn the direction of a tiny gradient.
                    assert!(
                        (a - b).abs() <= 1e-5 * b.abs().max(1.0),
                        "{name}: {a} and {b}"
                    );
                }
            }
        }
    }
    assert_eq!(
        first[0].steps[0].metric("return"),
        alone.steps[0].metric("return")
    );
    for (step, one) in first[0].steps.iter().zip(&alone.steps) {
        for name in ["grad_norm", "gradient_steps", "logprob_gap"] {
            for role in setup.game.roles() {
                let value = |step: &Step| step.metric(&format!("{}/{name}", role.name)).unwrap();
                let (here, there) = (value(step), value(one));
                let tolerance = if name == "logprob_gap" {
                    1e-5
                } else {
                    1e-4 * there
                };
                assert!(
                    (here - there).abs() <= tolerance,
                    "{}/{name}: {here} and {there}",
                    role.name
                );
                assert!(
                    name != "gradient_steps" || here > 0.0,
                    "nothing was learned"
                );
            }
        }
    }
    for (step, repeated) in first[0].steps.iter().zip(&again[0].steps) {
        assert_eq!(
            (metrics(step), lines(step)),
            (metrics(repeated), lines(repeated))
        );
    }
}

fn first_weights(outcomes: &[Outcome], name: &str) -> Vec<Vec<u32>> {
    let mut holders = outcomes
        .iter()
        .filter_map(|outcome| outcome.weights.get(name));
    holders.next().unwrap().clone()
}

#[test]
fn agents_apart_learn_what_they_learn_in_one_process() {
    check_parts(&Setup::default());
}

#[test]
fn turns_combinations_and_a_reference_are_the_same_on_several_ranks() {
    let settings = Magrpo {
        samples: 2,
        joint_mode: JointMode::Cross,
        kl: Kl::Loss { coefficient: 0.1 },
        ..Magrpo::default()
    };
    let mut config = training(4);
    // Several passes are shuffled with keys that depend on the agent's index in the whole team.
    config.updates.epochs = 2;
    config.updates.buffer = 3;
    config.updates.moments = MomentFormat::Int8;
    check_parts(&Setup {
        game: Box::new(Chain::new(&["first", "second"])),
        settings: Box::new(Magrpo {
            objective: crate::Objective::Clipped {
                low: 0.2,
                high: 0.2,
            },
            ..settings
        }),
        config,
        tasks_per_step: 1,
        steps: 2,
        ..Setup::default()
    });
}

#[test]
fn adapters_and_critics_are_the_same_on_several_ranks() {
    check_parts(&Setup {
        settings: Box::new(IndependentActorCritic {
            samples: 3,
            kl: Kl::Reward { coefficient: 0.1 },
            ..IndependentActorCritic::default()
        }),
        adapters: true,
        ..Setup::default()
    });
}

#[test]
fn rewards_per_role_are_those_of_the_right_role() {
    let game = Duet::new(|action| {
        let [one, two] = [0, 1].map(|role| action.responses[role].tokens.len() as f64);
        polyphony_episode::Reward::per_role([[("one", one)], [("two", -two)]])
    });
    check_parts(&Setup {
        game: Box::new(game),
        ..Setup::default()
    });
}

/// A setup whose gradient steps are made from this many tasks.
fn with_minibatch(tasks: usize) -> Setup {
    let mut setup = Setup {
        tasks_per_step: tasks,
        ..Setup::default()
    };
    setup.config.updates.buffer = tasks;
    setup.config.updates.minibatch = tasks;
    setup
}

#[test]
fn replicas_share_a_gradient_step() {
    check_replicas(&with_minibatch(4), 4, None);
    // The second round has two groups for three replicas.
    check_replicas(&with_minibatch(5), 3, Some(3));
    // Both agents are on each rank.
    check_replicas(&with_minibatch(4), 2, Some(2));
    // Fewer tasks than replicas.
    check_replicas(&with_minibatch(1), 4, None);
    let shared = Setup {
        shared: true,
        ..with_minibatch(2)
    };
    check_replicas(&shared, 2, None);
}

#[test]
fn replicas_of_critics_and_references_share_a_gradient_step() {
    let setup = Setup {
        settings: Box::new(IndependentActorCritic {
            samples: 2,
            kl: Kl::Loss { coefficient: 0.1 },
            ..IndependentActorCritic::default()
        }),
        ..with_minibatch(3)
    };
    check_replicas(&setup, 4, None);
}

#[test]
fn gradients_may_travel_in_half_of_the_bytes() {
    let norms = |gradients| {
        let setup = Setup {
            gradients,
            steps: 1,
            ..with_minibatch(2)
        };
        let outcomes = setup.on_ranks(4, None).into_iter().map(Result::unwrap);
        let outcomes: Vec<Outcome> = outcomes.collect();
        assert!(outcomes[0].weights == outcomes[2].weights);
        let step = &outcomes[0].steps[0];
        let sent = step.metric("timing.sent_bytes.gradients").unwrap();
        (step.metric("first/grad_norm").unwrap(), sent)
    };
    let ((exact, sent), (rounded, rounded_sent)) = (norms(SumFormat::F32), norms(SumFormat::Bf16));
    assert!(
        exact != rounded && (exact - rounded).abs() < 4e-3 * exact,
        "{exact}, {rounded}"
    );
    assert!(
        (0.5..0.51).contains(&(rounded_sent / sent)),
        "{sent}, {rounded_sent}"
    );
}

/// Both roles answer a task, but only the second one reads its text.
struct Uneven(Duet);

impl Environment for Uneven {
    fn roles(&self) -> &[polyphony_episode::Role] {
        self.0.roles()
    }

    fn reward_parts(&self) -> &[String] {
        self.0.reward_parts()
    }

    fn start(
        &self,
        task: &polyphony_episode::Task,
    ) -> Result<Vec<polyphony_episode::Observation>, polyphony_episode::EnvironmentError> {
        let observation = polyphony_episode::Observation::new;
        Ok(vec![observation("short"), observation(task.field("text")?)])
    }

    fn step(
        &self,
        task: &polyphony_episode::Task,
        past: &[polyphony_episode::Turn],
        action: &polyphony_episode::JointAction,
    ) -> Result<polyphony_episode::Outcome, polyphony_episode::EnvironmentError> {
        self.0.step(task, past, action)
    }
}

#[test]
fn what_does_not_fit_on_one_rank_is_left_out_on_all() {
    let long = "z".repeat(1024);
    let mut setup = Setup {
        game: Box::new(Uneven(Duet::new(lengths))),
        tasks: vec![task("long", &long), task("short", "text")],
        ..Setup::default()
    };
    setup.config.long_prompts = LongPrompts::Skip;
    check_parts(&setup);
    setup.config.long_prompts = LongPrompts::Fail;
    let mut errors = setup
        .on_ranks(2, None)
        .into_iter()
        .map(|outcome| outcome.err().unwrap());
    let (first, second) = (errors.next().unwrap(), errors.next().unwrap());
    let expected = "task `long`: the prompt of agent `second`";
    assert!(second.to_string().starts_with(expected), "{second}");
    assert!(
        matches!(first, MarlError::OtherRank { rank: 1, .. }),
        "{first}"
    );
    assert!(first.to_string().contains(expected), "{first}");
}

/// MAGRPO, whose agents fail to learn on one rank.
struct FailsOn(usize, Magrpo);

impl AlgorithmSettings for FailsOn {
    fn validate(&self, config: &TrainingConfig) -> Result<(), crate::ConfigError> {
        self.1.validate(config)
    }

    fn validate_for(&self, spec: &crate::EnvironmentSpec) -> Result<(), crate::ConfigError> {
        self.1.validate_for(spec)
    }

    fn method(&self, _: usize) -> String {
        String::new()
    }

    fn sampling_plan(&self) -> crate::SamplingPlan {
        AlgorithmSettings::sampling_plan(&self.1)
    }

    fn memory(&self, agent: &crate::AgentSpec, config: &TrainingConfig) -> crate::AlgorithmMemory {
        self.1.memory(agent, config)
    }

    fn build(
        &self,
        agents: &[Agent],
        spec: &crate::EnvironmentSpec,
        config: &TrainingConfig,
    ) -> Result<Box<dyn Algorithm>, MarlError> {
        match spec.first_agent == self.0 {
            true => Ok(Box::new(Failing(self.1.sampling_plan()))),
            false => self.1.build(agents, spec, config),
        }
    }
}

struct Failing(crate::SamplingPlan);

impl Algorithm for Failing {
    fn sampling_plan(&self) -> crate::SamplingPlan {
        self.0
    }

    fn learn(
        &mut self,
        _: &mut [Agent],
        _: &mut Rollout,
        _: &StepContext<'_>,
        _: &mut dyn FnMut(Progress),
    ) -> Result<Vec<Metric>, MarlError> {
        Err(MarlError::algorithm("the disk is full"))
    }

    fn state(&self, _: &[Agent]) -> Result<crate::AlgorithmState, MarlError> {
        Ok(crate::AlgorithmState::default())
    }

    fn restore(&mut self, _: &[Agent], _: &crate::SavedState<'_>) -> Result<(), MarlError> {
        Ok(())
    }

    fn gradient_steps(&self) -> usize {
        0
    }
}

#[test]
fn an_algorithm_that_fails_on_one_rank_ends_the_step_on_all() {
    let setup = Setup {
        settings: Box::new(FailsOn(1, Magrpo::default())),
        ..Setup::default()
    };
    let messages: Vec<String> = setup
        .on_ranks(2, None)
        .into_iter()
        .map(|outcome| outcome.err().unwrap().to_string())
        .collect();
    assert_eq!(
        messages,
        ["rank 1 failed: the disk is full", "the disk is full"]
    );
}

#[test]
fn an_error_on_one_rank_ends_the_step_on_all() {
    // The environment fails for one joint action, which one of the ranks scores.
    let game = Duet::new(|action| match action.responses[0].tokens.len() {
        1 => polyphony_episode::Reward::new([("unknown", 1.0)]),
        _ => lengths(action),
    });
    let setup = Setup {
        game: Box::new(game),
        ..Setup::default()
    };
    let errors: Vec<MarlError> = setup
        .on_ranks(4, None)
        .into_iter()
        .map(|outcome| outcome.err().unwrap())
        .collect();
    let is_own = |error: &&MarlError| matches!(error, MarlError::UnknownPart { .. });
    assert!(errors.iter().any(|error| is_own(&error)));
    for error in errors.iter().filter(|error| !is_own(error)) {
        assert!(matches!(error, MarlError::OtherRank { .. }), "{error}");
        assert!(
            error.to_string().contains("the reward part `unknown`"),
            "{error}"
        );
    }
}

#[test]
fn rank_0_reports_what_ranks_send_and_where_their_time_goes() {
    let setup = Setup {
        tasks_per_step: 4,
        steps: 1,
        ..Setup::default()
    };
    let outcomes = setup.on_ranks(4, None);
    let step = &outcomes[0].as_ref().unwrap().steps[0];
    for kind in Message::ALL {
        let name = format!("timing.sent_bytes.{}", kind.name());
        assert!(step.metric(&name).unwrap() > 0.0, "{name}");
    }
    for rank in 0..4 {
        assert!(
            step.metric(&format!("timing.rank_{rank}.communication_secs"))
                .unwrap()
                > 0.0
        );
    }
    // The gradients of the tiny model, once to each of two halves and back, on each of four ranks.
    let gradients = step.metric("timing.sent_bytes.gradients").unwrap();
    let weights = weight_bits(&wide_model()).concat().len();
    assert!(
        gradients >= (4 * 4 * weights) as f64,
        "{gradients} bytes for {weights} weights"
    );
    assert!(
        setup.alone().steps[0]
            .metric("timing.sent_bytes.gradients")
            .is_none()
    );
}
