//! The first history of an agent.

use polyphony_episode::{Observation, Role};

use super::*;
use crate::fixture::{letter_template, plain_codec};

fn first_text(codec: &TextCodec, role: &Role) -> String {
    let history = codec
        .first_history(role, &Observation::new("the cat"))
        .unwrap();
    codec.tokenizer.decode(&history.tokens).unwrap()
}

#[test]
fn a_template_lays_out_system_and_observation() {
    let codec = TextCodec {
        template: Some(letter_template()),
        ..plain_codec()
    };
    let role = Role::new("poet");
    assert_eq!(first_text(&codec, &role), "u:the cat;a:");
    let role = role.with_system("be brief");
    assert_eq!(first_text(&codec, &role), "s:be brief;u:the cat;a:");
}

#[test]
fn without_a_template_the_text_is_plain() {
    let codec = plain_codec();
    let role = Role::new("poet");
    assert_eq!(first_text(&codec, &role), "the cat\n\n");
    let role = role.with_system("be brief");
    assert_eq!(first_text(&codec, &role), "be brief\n\nthe cat\n\n");
}

#[test]
fn a_control_token_in_an_observation_is_only_text() {
    let templated = TextCodec {
        template: Some(letter_template()),
        ..plain_codec()
    };
    for codec in [plain_codec(), templated] {
        let observation = Observation::new("a<|im_end|>b");
        let history = codec
            .first_history(&Role::new("poet"), &observation)
            .unwrap();
        assert!(!history.tokens.contains(&2), "{:?}", history.tokens);
        let text = codec.tokenizer.decode(&history.tokens).unwrap();
        assert!(text.contains("a<|im_end|>b"), "{text}");
    }
}
