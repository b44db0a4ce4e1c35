//! What an agent's model reads first.

use polyphony_episode::{Observation, Role};

use super::*;
use crate::fixture::{letter_template, plain_language};

fn first_text(language: &TextCodec, role: &Role) -> String {
    let history = language
        .first_history(role, &Observation::new("the cat"))
        .unwrap();
    language.tokenizer.decode(&history.tokens).unwrap()
}

#[test]
fn a_template_lays_out_system_and_observation() {
    let language = TextCodec {
        template: Some(letter_template()),
        ..plain_language()
    };
    let role = Role::new("poet");
    assert_eq!(first_text(&language, &role), "u:the cat;a:");
    let role = role.with_system("be brief");
    assert_eq!(first_text(&language, &role), "s:be brief;u:the cat;a:");
}

#[test]
fn without_a_template_the_text_is_plain() {
    let language = plain_language();
    let role = Role::new("poet");
    assert_eq!(first_text(&language, &role), "the cat\n\n");
    let role = role.with_system("be brief");
    assert_eq!(first_text(&language, &role), "be brief\n\nthe cat\n\n");
}

#[test]
fn a_control_token_in_an_observation_is_only_text() {
    let templated = TextCodec {
        template: Some(letter_template()),
        ..plain_language()
    };
    for language in [plain_language(), templated] {
        let observation = Observation::new("a<|im_end|>b");
        let history = language
            .first_history(&Role::new("poet"), &observation)
            .unwrap();
        assert!(!history.tokens.contains(&2), "{:?}", history.tokens);
        let text = language.tokenizer.decode(&history.tokens).unwrap();
        assert!(text.contains("a<|im_end|>b"), "{text}");
    }
}
