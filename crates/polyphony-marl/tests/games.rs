//! Tiny models learn small games with the independent actor-critic: a matching game, and a game of two
//! turns.
#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

use polyphony_episode::{Environment, Task};
use polyphony_marl::{
    Agent, AlgorithmSettings, Game, HeadShape, IndependentActorCritic, LongPrompts, RolloutWeights,
    TrainingConfig, Updates, start_tasks, train_step,
};
use polyphony_model::Sampling;
use polyphony_test_support::{
    games::{Complement, Relay},
    team,
};

/// The share of the optimum that counts as learned, on average over this many steps.
const ENOUGH: f64 = 0.95;
const WINDOW: usize = 10;

const SEEDS: [u64; 3] = [1, 2, 3];

/// A game, its tasks, and how long it may take to learn.
struct Lesson {
    game: Box<dyn Environment>,
    tasks: Vec<Task>,
    optimum: f64,
    steps: usize,
    learning_rate: f64,
    settings: IndependentActorCritic,
}

fn settings(samples: usize) -> IndependentActorCritic {
    IndependentActorCritic {
        samples,
        value_learning_rate: Some(1e-2),
        ..IndependentActorCritic::default()
    }
}

fn complement() -> Lesson {
    Lesson {
        game: Box::new(Complement::new()),
        tasks: [("aaaa", "1"), ("zzzz", "3")]
            .map(|(call, sum)| Task::new(call, [("call", call), ("sum", sum)]))
            .into(),
        optimum: 1.0,
        steps: 200,
        learning_rate: 1e-3,
        settings: settings(8),
    }
}

fn relay() -> Lesson {
    let task = |secret| Task::new(secret, [("secret", secret)]);
    Lesson {
        game: Box::new(Relay::new()),
        tasks: ["low", "high"].map(task).into(),
        optimum: 1.5,
        steps: 250,
        // Slow enough that the runner does not settle before the scout has.
        learning_rate: 5e-4,
        settings: settings(8),
    }
}

impl Lesson {
    /// One token per response, and one gradient step from all nodes of a step.
    fn config(&self, seed: u64, nodes: usize) -> TrainingConfig {
        TrainingConfig {
            seed,
            steps: self.steps,
            sampling: Sampling::default(),
            max_new_tokens: 1,
            weights: RolloutWeights::Full,
            long_prompts: LongPrompts::Fail,
            updates: Updates {
                learning_rate: self.learning_rate,
                buffer: nodes,
                minibatch: nodes,
                ..Updates::default()
            },
        }
    }

    /// The fraction of the optimum that the last steps reach, and how many there were.
    fn learn(&self, mut agents: Vec<Agent>, seed: u64) -> (f64, usize) {
        let (game, samples) = (self.game.as_ref(), self.settings.samples);
        let nodes: usize = (0..game.horizon().get())
            .map(|turn| samples.pow(turn as u32))
            .sum();
        let config = self.config(seed, self.tasks.len() * nodes);
        let of = Game::of(game);
        let mut algorithm = self.settings.build(&agents, &of, &config).unwrap();
        let tasks = start_tasks(&agents, game, self.tasks.clone(), &config).unwrap();
        let all: Vec<usize> = (0..tasks.len()).collect();
        let mut returns = Vec::new();
        let mut reached = 0.0;
        for step in 0..self.steps {
            let algorithm = algorithm.as_mut();
            let batch = tasks.batch(&all);
            let done = train_step(
                &mut agents,
                algorithm,
                game,
                batch,
                &config,
                step,
                &mut |_| (),
            );
            returns.push(done.unwrap().metric("return").unwrap());
            let last = &returns[returns.len().saturating_sub(WINDOW)..];
            reached = last.iter().sum::<f64>() / WINDOW as f64 / self.optimum;
            if reached >= ENOUGH {
                break;
            }
        }
        (reached, returns.len())
    }
}

/// Every seed learns the game.
fn check_learned(lesson: &Lesson) {
    let mut failed = Vec::new();
    for seed in SEEDS {
        let agents = team(lesson.game.as_ref());
        let (reached, steps) = lesson.learn(agents, seed);
        if reached < ENOUGH {
            failed.push(format!(
                "seed {seed}: {reached:.3} of the optimum after {steps} steps"
            ));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// Models as tiny as these lose more time to handing work to other cores than they win.
fn on_one_core(test: impl FnOnce() + Send) {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build();
    pool.unwrap().install(test);
}

#[test]
fn critics_help_a_team_to_complement_each_other() {
    on_one_core(|| check_learned(&complement()));
}

#[test]
fn critics_help_a_team_to_hand_on_what_one_of_them_saw() {
    on_one_core(|| check_learned(&relay()));
}

#[test]
fn a_deeper_head_that_looks_far_ahead_learns_too() {
    let mut lesson = relay();
    (lesson.settings.value_head, lesson.settings.lambda) = (HeadShape::Tanh, 0.95);
    on_one_core(|| check_learned(&lesson));
}
