//! Trains two agents in one page of code, with the crates alone: no recipe, no run directory, no registry.
//!
//! Each agent reads the name of a town; both should answer with texts of the same length. The models are two
//! copies of a tiny model with random weights. The runner adds what this example leaves out: checkpoints,
//! evaluation on held-out tasks, metrics on disk, and memory checks.
//!
//! `cargo run -p polyphony --example train_by_hand [MODEL_DIRECTORY]`
#![allow(clippy::print_stdout, reason = "an example shows its result")]

use std::{error::Error, path::PathBuf, sync::Arc};

use burn::tensor::Device;
use polyphony::{
    episode::{Environment, FnEnvironment, Reward, Role, Task},
    marl::{
        Agent, AlgorithmSettings, EnvironmentSpec, Magrpo, Team, TextCodec, TrainingConfig,
        Updates, start_tasks, train_step,
    },
    model::{LanguageModel, ModelFiles},
};

const STEPS: usize = 20;

fn main() -> Result<(), Box<dyn Error>> {
    // The environment: a reward for a joint action. Each agent first reads the `prompt` of its task.
    let roles = ["left", "right"].map(Role::new);
    let environment = FnEnvironment::new(roles, ["equal"], |_task, action| {
        let [left, right] = action.texts().map(|text| text.chars().count() as f64);
        let equal = left.min(right) / left.max(right).max(1.0);
        Ok(Reward::new([("equal", equal)]))
    });
    let tasks =
        ["Aachen", "Bonn", "Celle", "Dessau"].map(|town| Task::new(town, [("prompt", town)]));

    // The team: two agents that start from one model. They share its memory until one of them is updated.
    let tiny = polyphony_test_support::plain_model(128);
    let path = std::env::args().nth(1).map(PathBuf::from);
    let files = ModelFiles::open(path.as_deref().unwrap_or(tiny.path()))?;
    let model = LanguageModel::load(&files, &Device::flex())?;
    let codec = Arc::new(TextCodec {
        tokenizer: files.tokenizer.ok_or("the model has no tokenizer")?,
        template: files.template,
        stop_tokens: files.stop_tokens,
    });
    let agent = |role: &Role| Agent::new(&role.name, model.clone(), Arc::clone(&codec));
    let mut team: Team = environment.roles().iter().map(agent).collect();

    // How to sample and update, and the algorithm.
    let config = TrainingConfig {
        seed: 1,
        steps: STEPS,
        max_new_tokens: 8,
        updates: Updates {
            // Right for the tiny model; a real model needs about 1e-5.
            learning_rate: 3e-3,
            buffer: tasks.len(),
            minibatch: tasks.len(),
            ..Updates::default()
        },
        ..TrainingConfig::default()
    };
    let settings = Magrpo {
        samples: 8,
        ..Magrpo::default()
    };
    let mut algorithm = settings.build(&team, &EnvironmentSpec::of(&environment), &config)?;

    // Every task is started and tokenized once. In this example every step plays all tasks.
    let tasks = start_tasks(&team, &environment, tasks.into(), &config)?;
    let all: Vec<usize> = (0..tasks.len()).collect();
    let (mut first, mut last) = (0.0, 0.0);
    for step in 0..STEPS {
        let batch = tasks.batch(&all);
        let algorithm = algorithm.as_mut();
        let result = train_step(
            &mut team,
            algorithm,
            &environment,
            batch,
            &config,
            step,
            &mut |_| (),
        )?;
        last = result.metric("return").unwrap_or(f64::NAN);
        if step == 0 {
            first = last;
        }
        if step % 5 == 0 || step + 1 == STEPS {
            println!("step {:>2}: return {last:.2}", step + 1);
        }
    }
    println!("from {first:.2} to {last:.2} of at most 1.00");
    Ok(())
}
