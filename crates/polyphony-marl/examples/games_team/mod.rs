//! What examples and tests that play small games share: a team of tiny models, and settings that suit
//! them.

use std::{error::Error, path::Path, sync::Arc};

use burn::tensor::Device;
use polyphony_episode::{Environment, Role};
use polyphony_marl::{Agent, Language, LongPrompts, RolloutWeights, TrainingConfig, Updates};
use polyphony_model::{LanguageModel, ModelFiles, Sampling, Tokenizer};

/// The number that a text stands for in the games: what its first character's code leaves when
/// divided by three.
pub(crate) fn number(text: &str) -> Option<u32> {
    text.chars().next().map(|first| u32::from(first) % 3)
}

/// Copies of a tiny model with random weights, one per role.
pub(crate) fn team(game: &dyn Environment) -> Result<Vec<Agent>, Box<dyn Error>> {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../polyphony-model/fixtures");
    let files = ModelFiles::open(&fixtures.join("tiny-llama"))?;
    let model = LanguageModel::load(&files, &Device::flex())?;
    let language = Arc::new(Language {
        tokenizer: Tokenizer::from_file(&fixtures.join("tiny-chat/tokenizer.json"))?,
        template: None,
        stop_tokens: files.stop_tokens,
    });
    let agent = |role: &Role| Agent::new(&role.name, model.clone(), Arc::clone(&language));
    Ok(game.roles().iter().map(agent).collect())
}

/// One token per response, and one gradient step from this many nodes.
pub(crate) fn training(
    seed: u64,
    steps: usize,
    nodes: usize,
    learning_rate: f64,
) -> TrainingConfig {
    TrainingConfig {
        seed,
        steps,
        sampling: Sampling::default(),
        max_new_tokens: 1,
        weights: RolloutWeights::Full,
        long_prompts: LongPrompts::Fail,
        updates: Updates {
            // Right for the tiny model; a real one wants about 1e-5.
            learning_rate,
            buffer: nodes,
            minibatch: nodes,
            ..Updates::default()
        },
    }
}
