//! Agents of a tiny model with random weights.

use std::sync::Arc;

use polyphony_episode::{Environment, Role};
use polyphony_marl::{Agent, Team, TextCodec};
use polyphony_model::Tokenizer;

use crate::{fixtures::fixture, models::load};

/// The tiny tokenizer, `<|im_end|>` as the only stop token, and no template.
pub fn plain_codec() -> TextCodec {
    TextCodec {
        tokenizer: Tokenizer::from_file(&fixture("tiny-chat/tokenizer.json")).unwrap(),
        template: None,
        stop_tokens: vec![2],
    }
}

/// Copies of `tiny-llama` on the CPU, one per role of a game.
pub fn team(game: &dyn Environment) -> Team {
    let model = load(&fixture("tiny-llama"));
    let codec = Arc::new(plain_codec());
    let agent = |role: &Role| Agent::new(&role.name, model.clone(), Arc::clone(&codec));
    let agents: Vec<Agent> = game.roles().iter().map(agent).collect();
    agents.into()
}
