//! A way in for `cargo xtask fuzz`: what a program wrote, without starting one for every input.

use polyphony_episode::Split;

use super::{answer, call::CallName, error::ProcessFailure};

/// Reads lines as the answers to calls that are counted from 1: the first is the handshake, and every other
/// one is an answer to `start` and to `step`. Returns why the first that cannot be used cannot. Panics if
/// something does not hold.
#[doc(hidden)]
pub fn read_process_answers(written: &[u8]) -> Result<(), ProcessFailure> {
    let mut lines = written.split(|byte| *byte == b'\n').zip(1..);
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
        let started =
            answer::read(line, CallName::Start, id).and_then(|own| own.observations(&hello));
        let stepped = answer::read(line, CallName::Step, id).and_then(|own| own.outcome(&hello));
        match (started, stepped) {
            (Ok(observations), _) => assert_eq!(observations.len(), roles),
            (_, Ok(outcome)) => assert!(outcome.reward.total().is_finite()),
            (_, Err(failure)) => return Err(failure),
        }
    }
    Ok(())
}
