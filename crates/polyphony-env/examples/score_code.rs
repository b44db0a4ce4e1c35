//! Scores the responses of two coding agents: runs their program in the sandbox, and shows each part of
//! the reward and the feedback that the agents would get.
//!
//! `cargo run -p polyphony-env --example score_code [AUXILIARY MAIN]`
#![allow(clippy::print_stdout, reason = "an example shows its result")]

use std::{error::Error, num::NonZeroUsize, sync::Arc};

use polyphony_env::{CodingEnvironment, CodingSettings, VisibleAsserts};
use polyphony_episode::{Environment, JointAction, Next, Response, Task};
use polyphony_sandbox::{Pool, SandboxConfig};

const PROMPT: &str = r#"def sum_of_digits_of_even_numbers(numbers: list[int]) -> int:
    """ Add up the digits of all even numbers in the list.
    >>> sum_of_digits_of_even_numbers([12, 13, 20])
    5
    """
"#;

const TEST: &str = "
def check(candidate):
    assert candidate([12, 13, 20]) == 5
    assert candidate([]) == 0
    assert candidate([7, 9]) == 0
    assert candidate([-24]) == 6
";

const AUXILIARY: &str = "Here is a helper:
```python
def aux(number):
    return sum(int(digit) for digit in str(number))
```";

/// Forgets that numbers may be negative, which makes one assert fail.
const MAIN: &str = "```python
def sum_of_digits_of_even_numbers(numbers):
    total = 0
    for number in numbers:
        if number % 2 == 0:
            total += aux(number)
    return total
```";

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let auxiliary = arguments.next().unwrap_or_else(|| AUXILIARY.to_owned());
    let main = arguments.next().unwrap_or_else(|| MAIN.to_owned());

    let pool = Pool::start(&SandboxConfig::default())?;
    println!(
        "isolation: {}, Python {}",
        pool.tier(),
        pool.interpreter().version
    );
    let settings = CodingSettings {
        turns: NonZeroUsize::MIN.saturating_add(1),
        visible_asserts: VisibleAsserts::All,
        ..CodingSettings::default()
    };
    let coding = CodingEnvironment::new(Arc::new(pool), settings)?;
    let task = Task::new(
        "example/1",
        [
            ("prompt", PROMPT),
            ("entry_point", "sum_of_digits_of_even_numbers"),
            ("test", TEST),
        ],
    );
    let action = JointAction::new([auxiliary, main].map(Response::from_text).into());
    let outcome = coding.step(&task, &[], &action)?;
    println!(
        "reward: {:.3} of {}",
        outcome.reward.total(),
        CodingEnvironment::MAX_REWARD
    );
    for (part, value) in outcome.reward.parts() {
        println!("  {part:<12} {value:.3}");
    }
    if let Next::Continue(observations) = outcome.next {
        for (role, observation) in coding.roles().iter().zip(observations) {
            println!("\nFeedback to {}:\n{}", role.name, observation.text);
        }
    }
    Ok(())
}
