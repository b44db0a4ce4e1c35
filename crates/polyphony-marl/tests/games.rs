//! Tiny models learn two small games with the independent actor-critic: a matching game, and a game of two
//! turns.
#![allow(missing_docs, reason = "tests")]

use polyphony_marl::{HeadShape, IndependentActorCritic};
use polyphony_test_support::games::{Challenge, SEEDS};

fn settings() -> IndependentActorCritic {
    IndependentActorCritic {
        samples: 8,
        value_learning_rate: Some(1e-2),
        ..IndependentActorCritic::default()
    }
}

/// Checks that every seed learns the game in this many steps.
fn check_learned(challenge: Challenge, steps: usize, settings: &IndependentActorCritic) {
    let failed = Challenge { steps, ..challenge }.failures(settings, &SEEDS);
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn critics_help_a_team_to_complement_each_other() {
    check_learned(Challenge::complement(), 200, &settings());
}

#[test]
fn critics_help_a_team_to_pass_on_what_one_agent_saw() {
    check_learned(Challenge::relay(), 250, &settings());
}

#[test]
fn a_deeper_head_that_looks_far_ahead_learns_too() {
    let settings = IndependentActorCritic {
        value_head: HeadShape::Tanh,
        lambda: 0.95,
        ..settings()
    };
    check_learned(Challenge::relay(), 250, &settings);
}
