//! Tiny models learn small games, with every algorithm, joint mode and credit; with rewards that were
//! shuffled they do not.

use std::num::NonZeroUsize;

use polyphony_episode::{Environment, Task};
use polyphony_marl::{
    Agent, Algorithm, Baseline, Credit, IndexedTask, JointMode, JudgedGroup, LongPrompts, Node,
    ResponseConfig, Rollout, RolloutConfig, RolloutWeights, StepConfig, UpdateConfig, Updates,
    advantages, credits, mean_return, returns, rollout, train_step, update,
};
use polyphony_model::{Sampling, StreamKey};
use polyphony_test_support::{
    games::{Complement, Relay},
    team,
};
use rand::{SeedableRng as _, seq::SliceRandom as _};
use rand_chacha::ChaCha8Rng;

/// The share of the optimum that counts as learned, on average over so many steps.
const ENOUGH: f64 = 0.95;
const WINDOW: usize = 10;

const SEEDS: [u64; 3] = [1, 2, 3];

const BASELINES: [Baseline; 4] = [
    Baseline::GroupMean,
    Baseline::LeaveOneOut,
    Baseline::GroupMax,
    Baseline::Zero,
];

/// A game, its tasks, and how long it may take to learn.
struct Lesson {
    game: Box<dyn Environment>,
    tasks: Vec<Task>,
    optimum: f64,
    steps: usize,
    learning_rate: f64,
}

fn complement() -> Lesson {
    Lesson {
        game: Box::new(Complement::new()),
        tasks: [("aaaa", "1"), ("zzzz", "3")]
            .map(|(call, sum)| Task::new(call, [("call", call), ("sum", sum)]))
            .into(),
        optimum: 1.0,
        steps: 150,
        learning_rate: 1e-3,
    }
}

fn relay() -> Lesson {
    let task = |secret| Task::new(secret, [("secret", secret)]);
    Lesson {
        game: Box::new(Relay::new()),
        tasks: ["low", "high"].map(task).into(),
        optimum: 1.5,
        steps: 200,
        // Slow enough that the runner does not settle before the scout has.
        learning_rate: 5e-4,
    }
}

impl Lesson {
    fn indexed(&self) -> Vec<IndexedTask<'_>> {
        let tasks = self.tasks.iter().enumerate();
        tasks
            .map(|(index, task)| IndexedTask { index, task })
            .collect()
    }

    fn config(&self, algorithm: &Algorithm, seed: u64, step: usize) -> StepConfig {
        let roles = self.game.roles().len();
        let joint_actions = algorithm.joint_actions(roles).unwrap();
        let turns: NonZeroUsize = self.game.horizon();
        let nodes: usize = (0..turns.get())
            .map(|turn| joint_actions.pow(turn as u32))
            .sum();
        // One gradient step from everything that a step has played.
        let all = self.tasks.len() * nodes;
        StepConfig {
            algorithm: algorithm.clone(),
            updates: Updates {
                learning_rate: self.learning_rate,
                buffer: all,
                minibatch: all,
                ..Updates::default()
            },
            responses: ResponseConfig {
                sampling: Sampling::default(),
                max_new_tokens: 1,
                weights: RolloutWeights::Full,
                long_prompts: LongPrompts::Fail,
            },
            steps: self.steps,
            key: StreamKey {
                seed,
                step: step as u32,
                ..StreamKey::default()
            },
        }
    }

    /// The mean return of each step, up to where it is learned.
    fn learn(&self, algorithm: &Algorithm, seed: u64) -> Vec<f64> {
        let mut team = team(self.game.as_ref());
        self.until_learned(|step| {
            let config = self.config(algorithm, seed, step);
            let game = self.game.as_ref();
            let done = train_step(&mut team, game, &self.indexed(), &config, &mut |_| ()).unwrap();
            done.report.first_turn().mean_return
        })
    }

    /// The same with MAGRPO where the rewards of each node are dealt out anew among its joint actions
    /// before anyone learns from them.
    fn learn_shuffled(&self, joint_mode: JointMode, seed: u64) -> Vec<f64> {
        let mut team = team(self.game.as_ref());
        let algorithm = algorithm(Baseline::GroupMean, joint_mode, Credit::Mean);
        let mut dice = ChaCha8Rng::seed_from_u64(seed);
        self.until_learned(|step| {
            let config = self.config(&algorithm, seed, step);
            let mut played = play(&team, self, &config);
            let earned = mean_return(&played.nodes, 1.0);
            played
                .nodes
                .iter_mut()
                .for_each(|node| shuffle(node, &mut dice));
            for (role, agent) in team.iter_mut().enumerate() {
                let groups: Vec<JudgedGroup> = played
                    .nodes
                    .iter()
                    .flat_map(Node::nodes)
                    .map(|node| judge(node, role, &algorithm))
                    .collect();
                let update_config = UpdateConfig {
                    algorithm: &algorithm,
                    updates: &config.updates,
                    learning_rate: config.updates.learning_rate,
                    minibatch: groups.len(),
                    temperature: 1.0,
                    max_new_tokens: config.responses.max_new_tokens,
                };
                update(agent, &groups, &update_config).unwrap();
            }
            earned
        })
    }

    fn until_learned(&self, mut step: impl FnMut(usize) -> f64) -> Vec<f64> {
        let mut returns = Vec::new();
        for number in 0..self.steps {
            returns.push(step(number));
            if returns.len() >= WINDOW && self.reached(&returns) >= ENOUGH {
                break;
            }
        }
        returns
    }

    /// The share of the optimum that the last steps reach.
    fn reached(&self, returns: &[f64]) -> f64 {
        let last = &returns[returns.len() - WINDOW..];
        last.iter().sum::<f64>() / WINDOW as f64 / self.optimum
    }
}

fn play(team: &[Agent], lesson: &Lesson, config: &StepConfig) -> Rollout {
    let rollout_config = RolloutConfig {
        samples: config.algorithm.samples,
        joint_mode: config.algorithm.joint_mode,
        termination_threshold: None,
        responses: config.responses.clone(),
        key: config.key,
    };
    let game = lesson.game.as_ref();
    rollout(team, game, &lesson.indexed(), &rollout_config, &mut |_| ()).unwrap()
}

/// Deals the rewards of a node, and of all below it, out anew among its joint actions.
fn shuffle(node: &mut Node, dice: &mut ChaCha8Rng) {
    let branches = node.branches.iter();
    let mut rewards: Vec<_> = branches.map(|branch| branch.reward.clone()).collect();
    rewards.shuffle(dice);
    for (branch, reward) in node.branches.iter_mut().zip(rewards) {
        branch.reward = reward;
        if let Some(child) = &mut branch.child {
            shuffle(child, dice);
        }
    }
}

fn judge(node: &Node, role: usize, algorithm: &Algorithm) -> JudgedGroup {
    let credits = credits(node, role, &returns(node, 1.0), algorithm.credit);
    JudgedGroup {
        group: node.groups[role].clone(),
        advantages: advantages(&credits, algorithm.baseline, algorithm.advantage_scale),
    }
}

fn algorithm(baseline: Baseline, joint_mode: JointMode, credit: Credit) -> Algorithm {
    Algorithm {
        samples: match joint_mode {
            JointMode::Aligned => 8,
            JointMode::Cross => 4,
        },
        joint_mode,
        credit,
        baseline,
        ..Algorithm::default()
    }
}

/// Every way of joining responses and crediting them.
const MODES: [(JointMode, Credit); 3] = [
    (JointMode::Aligned, Credit::Mean),
    (JointMode::Cross, Credit::Mean),
    (JointMode::Cross, Credit::Sum),
];

/// Every algorithm learns the game, from every seed.
fn check_learned(lesson: &Lesson) {
    let mut failed = Vec::new();
    for baseline in BASELINES {
        for (joint_mode, credit) in MODES {
            for seed in SEEDS {
                let returns = lesson.learn(&algorithm(baseline, joint_mode, credit), seed);
                let reached = lesson.reached(&returns);
                if reached < ENOUGH {
                    failed.push(format!(
                        "{baseline:?}, {joint_mode:?}, {credit:?}, seed {seed}: {reached:.3} of \
                         the optimum after {} steps",
                        returns.len()
                    ));
                }
            }
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// Shuffled rewards teach nothing: what is reached is left to chance, and stays low on average.
fn check_not_learned(lesson: &Lesson) {
    let modes = [JointMode::Aligned, JointMode::Cross];
    let runs = modes
        .iter()
        .flat_map(|mode| SEEDS.map(|seed| (*mode, seed)));
    let reached: Vec<f64> = runs
        .map(|(mode, seed)| lesson.reached(&lesson.learn_shuffled(mode, seed)))
        .collect();
    let mean = reached.iter().sum::<f64>() / reached.len() as f64;
    assert!(mean < 0.6, "{reached:?}");
}

/// Models as tiny as these lose more time to handing work to other cores than they win.
fn on_one_core(test: impl FnOnce() + Send) {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build();
    pool.unwrap().install(test);
}

#[test]
fn a_team_learns_to_complement_each_other() {
    on_one_core(|| check_learned(&complement()));
}

#[test]
fn a_team_learns_to_hand_on_what_one_of_them_saw() {
    on_one_core(|| check_learned(&relay()));
}

#[test]
fn shuffled_rewards_teach_no_complement() {
    on_one_core(|| check_not_learned(&complement()));
}

#[test]
fn shuffled_rewards_teach_no_relay() {
    on_one_core(|| check_not_learned(&relay()));
}
