//! Whether an algorithm learns a game.

use polyphony_episode::{Environment, Task};
use polyphony_marl::{
    Algorithm, AlgorithmSettings, EnvironmentSpec, TrainingConfig, Updates, start_tasks, train_step,
};

use super::{Complement, Relay};
use crate::team;

/// A game, its tasks, and how long it may take to learn.
pub struct Challenge {
    /// The game.
    pub game: Box<dyn Environment>,
    /// All of them are played in each step.
    pub tasks: Vec<Task>,
    /// The highest mean return.
    pub optimum: f64,
    /// The most steps.
    pub steps: usize,
    /// The learning rate of all agents.
    pub learning_rate: f64,
}

/// How far a team got.
pub struct Attempt {
    /// The fraction of the optimum that the last steps reached.
    pub reached: f64,
    /// Steps taken.
    pub steps: usize,
}

/// The fraction of the optimum that counts as learned, on average over this many steps.
const ENOUGH: f64 = 0.95;
const WINDOW: usize = 10;

/// The seeds that a game is learned from.
pub const SEEDS: [u64; 3] = [1, 2, 3];

impl Challenge {
    /// [`Complement`] with two calls.
    pub fn complement() -> Self {
        let task = |(call, sum)| Task::new(call, [("call", call), ("sum", sum)]);
        Self {
            game: Box::new(Complement::new()),
            tasks: [("aaaa", "1"), ("zzzz", "3")].map(task).into(),
            optimum: 1.0,
            steps: 150,
            learning_rate: 1e-3,
        }
    }

    /// [`Relay`] with both secrets.
    pub fn relay() -> Self {
        let task = |secret| Task::new(secret, [("secret", secret)]);
        Self {
            game: Box::new(Relay::new()),
            tasks: ["low", "high"].map(task).into(),
            optimum: 1.5,
            steps: 200,
            // Slow enough that the runner does not settle before the scout has.
            learning_rate: 5e-4,
        }
    }

    /// The [`SEEDS`] from which an algorithm does not learn the game, a line for each.
    pub fn failures(&self, settings: &(dyn AlgorithmSettings + Sync)) -> Vec<String> {
        let mut failures = Vec::new();
        for seed in SEEDS {
            let Attempt { reached, steps } = self.learn(settings, seed, |algorithm| algorithm);
            if reached < ENOUGH {
                failures.push(format!(
                    "seed {seed}: {reached:.3} of the optimum after {steps} steps"
                ));
            }
        }
        failures
    }

    /// Learns the game from one seed, on one core: models as tiny as these lose more time to handing work
    /// to other cores than they gain. `wrap` may put something around the algorithm.
    pub fn learn(
        &self,
        settings: &(dyn AlgorithmSettings + Sync),
        seed: u64,
        wrap: impl FnOnce(Box<dyn Algorithm>) -> Box<dyn Algorithm> + Send,
    ) -> Attempt {
        let game = self.game.as_ref();
        let config = self.config(settings, seed);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build();
        pool.unwrap().install(|| {
            let mut team = team(game);
            let built = settings.build(&team, &EnvironmentSpec::of(game), &config);
            let mut algorithm = wrap(built.unwrap());
            let tasks = start_tasks(&team, game, self.tasks.clone(), &config).unwrap();
            let all: Vec<usize> = (0..tasks.len()).collect();
            let mut returns = Vec::new();
            loop {
                let done = train_step(
                    &mut team,
                    algorithm.as_mut(),
                    game,
                    tasks.batch(&all),
                    &config,
                    returns.len(),
                    &mut |_| (),
                );
                returns.push(done.unwrap().metric("return").unwrap());
                let last = &returns[returns.len().saturating_sub(WINDOW)..];
                let reached = last.iter().sum::<f64>() / WINDOW as f64 / self.optimum;
                let steps = returns.len();
                if reached >= ENOUGH || steps == self.steps {
                    return Attempt { reached, steps };
                }
            }
        })
    }

    /// One token per response, and one gradient step from all nodes of a step.
    fn config(&self, settings: &dyn AlgorithmSettings, seed: u64) -> TrainingConfig {
        let roles = self.game.roles().len();
        let joint_actions = settings.sampling_plan().joint_actions(roles).unwrap();
        let turns = self.game.horizon().get();
        let nodes: usize = (0..turns).map(|turn| joint_actions.pow(turn as u32)).sum();
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
}
