//! Tiny models learn small games, with every algorithm, joint mode and credit; with rewards that were
//! shuffled they do not.

use polyphony_episode::{Environment, Metric, Task};
use polyphony_marl::{
    Agent, Algorithm, AlgorithmSettings as _, AlgorithmState, Baseline, Credit, Game, JointMode,
    Magrpo, MarlError, Node, Progress, Rollout, StepContext, TrainingConfig, Tree, Updates,
    start_tasks, train_step,
};
use polyphony_model::{ModelError, TensorSpec};
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
    fn config(&self, settings: &Magrpo, seed: u64) -> TrainingConfig {
        let roles = self.game.roles().len();
        let joint_actions = settings.tree().joint_actions(roles).unwrap();
        let turns = self.game.horizon().get();
        let nodes: usize = (0..turns).map(|turn| joint_actions.pow(turn as u32)).sum();
        // One gradient step from everything that a step has played.
        let all = self.tasks.len() * nodes;
        TrainingConfig {
            seed,
            steps: self.steps,
            max_new_tokens: 1,
            updates: Updates {
                learning_rate: self.learning_rate,
                buffer: all,
                minibatch: all,
                ..Updates::default()
            },
            ..TrainingConfig::default()
        }
    }

    /// The mean return of each step, up to where it is learned.
    fn learn(&self, settings: &Magrpo, seed: u64) -> Vec<f64> {
        self.learn_with(settings, seed, |algorithm| algorithm)
    }

    /// The same with MAGRPO where the rewards of each node are dealt out anew among its joint actions
    /// before anyone learns from them.
    fn learn_shuffled(&self, joint_mode: JointMode, seed: u64) -> Vec<f64> {
        let settings = magrpo(Baseline::GroupMean, joint_mode, Credit::Mean);
        self.learn_with(&settings, seed, |inner| {
            Box::new(Shuffled {
                inner,
                dice: ChaCha8Rng::seed_from_u64(seed),
            })
        })
    }

    /// Learns with what is made of the algorithm.
    fn learn_with(
        &self,
        settings: &Magrpo,
        seed: u64,
        change: impl FnOnce(Box<dyn Algorithm>) -> Box<dyn Algorithm>,
    ) -> Vec<f64> {
        let game = self.game.as_ref();
        let config = self.config(settings, seed);
        let mut team = team(game);
        let built = settings.build(&team, &Game::of(game), &config);
        let mut algorithm = change(built.unwrap());
        let tasks = start_tasks(&team, game, self.tasks.clone(), &config).unwrap();
        let all: Vec<usize> = (0..tasks.len()).collect();
        self.until_learned(|step| {
            let done = train_step(
                &mut team,
                algorithm.as_mut(),
                game,
                tasks.batch(&all),
                &config,
                step,
                &mut |_| (),
            );
            done.unwrap().metric("return").unwrap()
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

/// An algorithm that learns from rewards which have nothing to do with what was answered. What is
/// reported as earned is what was.
struct Shuffled {
    inner: Box<dyn Algorithm>,
    dice: ChaCha8Rng,
}

impl Algorithm for Shuffled {
    fn tree(&self) -> Tree {
        self.inner.tree()
    }

    fn learn(
        &mut self,
        agents: &mut [Agent],
        rollout: &mut Rollout,
        step: &StepContext<'_>,
        on_progress: &mut dyn FnMut(Progress),
    ) -> Result<Vec<Metric>, MarlError> {
        for node in &mut rollout.nodes {
            shuffle(node, &mut self.dice);
        }
        self.inner.learn(agents, rollout, step, on_progress)
    }

    fn state(&self, agents: &[Agent]) -> Result<AlgorithmState, MarlError> {
        self.inner.state(agents)
    }

    fn restore(
        &mut self,
        agents: &[Agent],
        values: &str,
        read: &mut dyn FnMut(&TensorSpec) -> Result<Vec<f32>, ModelError>,
    ) -> Result<(), MarlError> {
        self.inner.restore(agents, values, read)
    }

    fn gradient_steps(&self) -> usize {
        self.inner.gradient_steps()
    }
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

fn magrpo(baseline: Baseline, joint_mode: JointMode, credit: Credit) -> Magrpo {
    Magrpo {
        samples: match joint_mode {
            JointMode::Aligned => 8,
            JointMode::Cross => 4,
        },
        joint_mode,
        credit,
        baseline,
        ..Magrpo::default()
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
                let returns = lesson.learn(&magrpo(baseline, joint_mode, credit), seed);
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
