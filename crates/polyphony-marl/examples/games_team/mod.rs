//! What the examples that play small games share: a team of tiny models, and settings that suit them.

use std::{error::Error, path::Path, sync::Arc};

use burn::tensor::Device;
use polyphony_episode::{Environment, Role};
use polyphony_marl::{
    Agent, Algorithm, JointMode, Language, LongPrompts, ResponseConfig, RolloutConfig,
    RolloutWeights, UpdateConfig, Updates,
};
use polyphony_model::{LanguageModel, ModelFiles, Sampling, StreamKey, Tokenizer};

/// The number that a text stands for in the games: what its first character's code leaves when
/// divided by three.
pub(crate) fn number(text: &str) -> Option<u32> {
    text.chars().next().map(|first| u32::from(first) % 3)
}

/// Copies of a tiny model with random weights, one a role.
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

/// One token a response.
pub(crate) fn rollout_config(samples: usize, step: u32) -> RolloutConfig {
    RolloutConfig {
        samples,
        joint_mode: JointMode::Aligned,
        termination_threshold: None,
        responses: ResponseConfig {
            sampling: Sampling::default(),
            max_new_tokens: 1,
            weights: RolloutWeights::Full,
            long_prompts: LongPrompts::Fail,
        },
        // Every step draws other random numbers.
        key: StreamKey {
            seed: 1,
            step,
            ..StreamKey::default()
        },
    }
}

/// One gradient step from so many groups.
pub(crate) fn update_config<'a>(
    algorithm: &'a Algorithm,
    updates: &'a Updates,
    groups: usize,
) -> UpdateConfig<'a> {
    UpdateConfig {
        algorithm,
        updates,
        // Right for the tiny model; a real one wants about 1e-5.
        learning_rate: 3e-3,
        minibatch: groups,
        temperature: 1.0,
        max_new_tokens: 1,
    }
}
