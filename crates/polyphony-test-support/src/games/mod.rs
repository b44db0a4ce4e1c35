//! Small cooperative games whose optimum is known. Tiny models learn them within a few seconds.

mod challenge;
mod complement;
mod relay;

pub use challenge::{Attempt, Challenge, SEEDS};
pub use complement::Complement;
pub use relay::Relay;

/// The number that a text stands for: the code of its first character modulo three. `None` for an empty
/// text.
pub fn number(text: &str) -> Option<u32> {
    text.chars().next().map(|first| u32::from(first) % 3)
}

#[cfg(test)]
mod tests {
    use polyphony_episode::{Environment, JointAction, Next, Response, Task, Turn};

    use super::*;

    fn action(texts: [&str; 2]) -> JointAction {
        JointAction::new(texts.map(Response::from_text).into())
    }

    #[test]
    fn numbers_that_add_up_earn_one() {
        let game = Complement::new();
        let task = Task::new("1", [("call", "three"), ("sum", "3")]);
        // The numbers of a, b and c are 1, 2 and 0.
        for (texts, reward) in [(["a", "a"], 0.0), (["a", "b"], 1.0), (["b", "b"], 0.0)] {
            let outcome = game.step(&task, &[], &action(texts)).unwrap();
            assert_eq!(outcome.reward.total(), reward, "{texts:?}");
        }
    }

    #[test]
    fn the_runner_reads_the_signal_of_the_scout() {
        let game = Relay::new();
        let task = Task::new("1", [("secret", "high")]);
        let observations = game.start(&task).unwrap();
        let first = action(["a", "c"]);
        let outcome = game.step(&task, &[], &first).unwrap();
        assert_eq!(outcome.reward.total(), 0.5);
        let Next::Continue(next) = outcome.next else {
            panic!("the relay has two turns");
        };
        assert_eq!(&*next[1].text, "zzzz");
        let past = [Turn {
            observations,
            action: first,
        }];
        for (answer, reward) in [("b", 1.0), ("c", -1.0)] {
            let outcome = game.step(&task, &past, &action(["c", answer])).unwrap();
            assert_eq!(outcome.reward.total(), reward, "{answer}");
        }
    }
}
