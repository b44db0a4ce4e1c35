//! Two small cooperative games, played here by rule. The project's tests let tiny models learn them.
#![allow(clippy::print_stdout, reason = "an example shows its result")]

mod complement;
mod relay;

use std::error::Error;

use complement::Complement;
use polyphony_episode::{Environment, JointAction, Next, Response, Task, Turn};
use relay::Relay;

/// The number that a text stands for: what its first character's code leaves when divided by three.
/// An empty text stands for none.
fn number(text: &str) -> Option<u32> {
    text.chars().next().map(|first| u32::from(first) % 3)
}

fn action(texts: [&str; 2]) -> JointAction {
    JointAction::new(texts.map(Response::from_text).into())
}

fn main() -> Result<(), Box<dyn Error>> {
    let game = Complement::new();
    let task = Task::new("1", [("call", "three"), ("sum", "3")]);
    // The codes of a, b and c leave 1, 2 and 0.
    for texts in [["a", "a"], ["a", "b"], ["b", "b"]] {
        let earned = game.step(&task, &[], &action(texts))?.reward.total();
        println!("complement: {texts:?} earns {earned}");
    }

    let game = Relay::new();
    let task = Task::new("1", [("secret", "high")]);
    let observations = game.start(&task)?;
    let first = action(["a", "c"]);
    let outcome = game.step(&task, &[], &first)?;
    let Next::Continue(told) = outcome.next else {
        return Err("the relay has two turns".into());
    };
    let past = [Turn {
        observations,
        action: first,
    }];
    println!("relay: the runner is told {:?}", told[1].text);
    for answer in ["b", "c"] {
        let earned = game
            .step(&task, &past, &action(["c", answer]))?
            .reward
            .total();
        println!("relay: the runner says {answer:?} and earns {earned}");
    }
    Ok(())
}
