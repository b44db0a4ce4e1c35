//! Checks whether an algorithm learns a game.

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
    /// The tasks, all of which are played in each step.
    pub tasks: Vec<Task>,
    /// The highest mean return that is possible.
    pub optimum: f64,
    /// The maximum number of steps.
    pub steps: usize,
    /// The learning rate of all agents.
    pub learning_rate: f64,
}

/// How far a team got with a game.
pub struct Attempt {
    /// The mean return of the last ten steps, as a fraction of the optimum.
    pub reached: f64,
    /// Steps taken.
    pub steps: usize,
}

/// A game counts as learned if the mean return of the last [`WINDOW`] steps is at least this fraction of the
/// optimum.
const LEARNED: f64 = 0.95;
const WINDOW: usize = 10;

/// The seeds with which games are learned.
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
            steps: 150,
            // Slow enough that the runner does not settle on an answer before the scout does.
            learning_rate: 5e-4,
        }
    }

    /// Those of the seeds with which an algorithm does not learn the game, one line per seed.
    pub fn failures(
        &self,
        settings: &(dyn AlgorithmSettings + Sync),
        seeds: &[u64],
    ) -> Vec<String> {
        let mut failures = Vec::new();
        for &seed in seeds {
            let Attempt { reached, steps } = self.learn(settings, seed, |algorithm| algorithm);
            if reached < LEARNED {
                failures.push(format!(
                    "seed {seed}: {reached:.3} of the optimum after {steps} steps"
                ));
            }
        }
        failures
    }

    /// Trains a team with one seed, until the team has learned the game or taken [`Challenge::steps`] steps.
    /// Training runs on one core: for such tiny models, distributing work to other cores costs more time than
    /// it saves. `wrap` may wrap the algorithm in another one.
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
            let algorithm = settings.build(&team, &EnvironmentSpec::of(game), &config);
            let mut algorithm = wrap(algorithm.unwrap());
            let tasks = start_tasks(&team, game, self.tasks.clone(), &config).unwrap();
            let all: Vec<usize> = (0..tasks.len()).collect();
            let mut returns = Vec::new();
            loop {
                let result = train_step(
                    &mut team,
                    algorithm.as_mut(),
                    game,
                    tasks.batch(&all),
                    &config,
                    returns.len(),
                    &mut |_| (),
                );
                returns.push(result.unwrap().metric("return").unwrap());
                let last = &returns[returns.len().saturating_sub(WINDOW)..];
                let reached = last.iter().sum::<f64>() / WINDOW as f64 / self.optimum;
                let steps = returns.len();
                if reached >= LEARNED || steps == self.steps {
                    return Attempt { reached, steps };
                }
            }
        })
    }

    /// One token per response, and one gradient step per training step, from all its nodes.
    fn config(&self, settings: &dyn AlgorithmSettings, seed: u64) -> TrainingConfig {
        let roles = self.game.roles().len();
        let joint_actions = settings.sampling_plan().joint_actions(roles).unwrap();
        let turns = self.game.horizon().get();
        let nodes: usize = (0..turns).map(|turn| joint_actions.pow(turn as u32)).sum();
        let all_nodes = self.tasks.len() * nodes;
        TrainingConfig {
            seed,
            steps: self.steps,
            max_new_tokens: 1,
            updates: Updates {
                learning_rate: self.learning_rate,
                buffer: all_nodes,
                minibatch: all_nodes,
                ..Updates::default()
            },
            ..TrainingConfig::default()
        }
    }
}
