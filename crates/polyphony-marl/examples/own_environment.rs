//! A complete program: an environment, its tasks, a team of two models, and training.
//!
//! Two agents invent a number plate. The first writes the letters and the second the digits, and both
//! parts should have the same length. Without an argument the agents are two copies of a tiny model with
//! random weights, which learn within seconds.
//!
//! `cargo run -p polyphony-marl --example own_environment [MODEL_DIRECTORY]`
#![allow(clippy::print_stdout, reason = "an example shows its result")]

use std::{
    error::Error,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use burn::tensor::Device;
use polyphony_episode::{
    Environment, EnvironmentError, JointAction, Observation, Outcome, Reward, Role, Task, Turn,
};
use polyphony_marl::{
    Agent, AlgorithmSettings, EnvironmentSpec, LongPrompts, Magrpo, Team, TextCodec,
    TrainingConfig, Updates, start_tasks, train_step,
};
use polyphony_model::{LanguageModel, ModelFiles, Sampling};

/// Two agents, one turn. The task's field `town` names the town that the plate is for.
struct NumberPlate {
    roles: [Role; 2],
    parts: [String; 3],
}

impl Environment for NumberPlate {
    fn roles(&self) -> &[Role] {
        &self.roles
    }

    fn reward_parts(&self) -> &[String] {
        &self.parts
    }

    fn start(&self, task: &Task) -> Result<Vec<Observation>, EnvironmentError> {
        let town = task.field("town")?;
        let observe = |part| Observation::new(format!("{town}: {part}"));
        Ok(vec![observe("letters"), observe("digits")])
    }

    fn step(
        &self,
        _task: &Task,
        _past: &[Turn],
        action: &JointAction,
    ) -> Result<Outcome, EnvironmentError> {
        let [letters, digits] = action.texts();
        let [first, second] = [letters, digits].map(|text| text.chars().count() as f64);
        let reward = Reward::new([
            ("letters", fraction(letters, |c| c.is_ascii_alphabetic())),
            ("digits", fraction(digits, |c| c.is_ascii_digit())),
            ("balance", first.min(second) / first.max(second).max(1.0)),
        ]);
        Ok(Outcome::end(reward))
    }
}

/// The fraction of a text's characters that are of the wanted kind; 0 for an empty text.
fn fraction(text: &str, is_wanted: impl Fn(char) -> bool) -> f64 {
    let matches = text
        .chars()
        .filter(|&character| is_wanted(character))
        .count();
    matches as f64 / text.chars().count().max(1) as f64
}

const STEPS: usize = 30;

fn main() -> Result<(), Box<dyn Error>> {
    let environment = NumberPlate {
        roles: ["letters", "digits"].map(Role::new),
        parts: ["letters", "digits", "balance"].map(String::from),
    };
    let tasks: Vec<Task> = ["Ulm", "Bonn", "Jena", "Kiel"]
        .map(|town| Task::new(town, [("town", town)]))
        .into();
    let folder = tempfile::tempdir()?;
    let model = match std::env::args().nth(1) {
        Some(directory) => PathBuf::from(directory),
        None => tiny_model(folder.path())?,
    };
    let mut team = team(&model, &environment)?;
    let config = config();
    let magrpo = Magrpo {
        samples: 8,
        ..Magrpo::default()
    };
    let mut algorithm = magrpo.build(&team, &EnvironmentSpec::of(&environment), &config)?;

    // Every step plays all tasks; a larger data set would be spread over the steps.
    let tasks = start_tasks(&team, &environment, tasks, &config)?;
    let all: Vec<usize> = (0..tasks.len()).collect();
    for step in 0..STEPS {
        let result = train_step(
            &mut team,
            algorithm.as_mut(),
            &environment,
            tasks.batch(&all),
            &config,
            step,
            &mut |_| {},
        )?;
        if (step + 1) % 5 == 0 {
            let node = &result.rollout.roots[0];
            let plate = node.joint_action(&node.branches[0].picks);
            let [letters, digits] = plate.texts();
            let mean_return = result.metric("return").unwrap_or(f64::NAN);
            println!(
                "step {:>2}: return {mean_return:.2}, for example {letters:?} {digits:?}",
                step + 1
            );
        }
    }
    Ok(())
}

/// One agent per role. Copies share their weights' memory until one of them learns.
fn team(model: &Path, environment: &NumberPlate) -> Result<Team, Box<dyn Error>> {
    let files = ModelFiles::open(model)?;
    let model = LanguageModel::load(&files, &Device::flex())?;
    let codec = Arc::new(TextCodec {
        tokenizer: files.tokenizer.ok_or("the model has no tokenizer")?,
        template: files.template,
        stop_tokens: files.stop_tokens,
    });
    let agent = |role: &Role| Agent::new(&role.name, model.clone(), Arc::clone(&codec));
    Ok(environment.roles().iter().map(agent).collect())
}

fn config() -> TrainingConfig {
    TrainingConfig {
        // The same seed gives the same random numbers, which differ from step to step.
        seed: 1,
        steps: STEPS,
        sampling: Sampling::default(),
        max_new_tokens: 6,
        long_prompts: LongPrompts::Fail,
        updates: Updates {
            // Right for the tiny model; a real one needs about 1e-5.
            learning_rate: 3e-3,
            // One gradient step from the four tasks of a step.
            buffer: 4,
            minibatch: 4,
            ..Updates::default()
        },
    }
}

/// Combines two of this project's test fixtures into a model: the weights of one, the tokenizer and chat
/// template of the other.
fn tiny_model(folder: &Path) -> std::io::Result<PathBuf> {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../polyphony-model/fixtures");
    for file in [
        "tiny-llama/config.json",
        "tiny-llama/model.safetensors",
        "tiny-chat/tokenizer.json",
        "tiny-chat/tokenizer_config.json",
        "tiny-chat/chat_template.jinja",
    ] {
        let source = fixtures.join(file);
        fs::copy(&source, folder.join(source.file_name().unwrap_or_default()))?;
    }
    Ok(folder.to_owned())
}
