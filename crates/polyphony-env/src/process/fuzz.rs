//! An entry point for `cargo xtask fuzz`: reads answers without starting a program for every input.

use polyphony_episode::Split;

use super::{answer, call::CallName, error::ProcessFailure};

/// Reads lines as answers to calls with the ids 1, 2 and so on. The first line answers the handshake. Every
/// other line is read twice, as an answer to `start` and as an answer to `step`, and is an error only if
/// both readings fail. Returns the first error. Panics if an answer is accepted although it breaks a rule
/// of the protocol.
#[doc(hidden)]
pub fn read_process_answers(output: &[u8]) -> Result<(), ProcessFailure> {
    let mut lines = output.split(|byte| *byte == b'\n').zip(1..);
    let Some((first, id)) = lines.next() else {
        return Ok(());
    };
    let hello = answer::read(first, CallName::Hello, id)?.hello()?;
    let roles = hello.roles().len();
    assert!(roles > 0 && !hello.reward_parts.is_empty());
    for split in [Split::Train, Split::HeldOut] {
        assert!(hello.tasks(split).is_none_or(|tasks| !tasks.is_empty()));
    }
    for (line, id) in lines {
        let observations =
            answer::read(line, CallName::Start, id).and_then(|answer| answer.observations(&hello));
        let outcome =
            answer::read(line, CallName::Step, id).and_then(|answer| answer.outcome(&hello));
        match (observations, outcome) {
            (Ok(observations), _) => assert_eq!(observations.len(), roles),
            (_, Ok(outcome)) => assert!(outcome.reward.total().is_finite()),
            (_, Err(failure)) => return Err(failure),
        }
    }
    Ok(())
}
