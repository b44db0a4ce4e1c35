//! Your own environment, with this crate as the only dependency: two agents name numbers that should add
//! up to a target. After the first try, both read how far off they were together.
//!
//! `cargo run -p polyphony-episode --example number_duet`
#![allow(clippy::print_stdout, reason = "an example shows its result")]

use std::num::NonZeroUsize;

use polyphony_episode::{
    Environment, EnvironmentError, JointAction, Next, Observation, Outcome, Response, Reward, Role,
    Task, Turn,
};

struct NumberDuet {
    roles: [Role; 2],
    parts: [String; 2],
    turns: NonZeroUsize,
}

impl NumberDuet {
    fn new(turns: NonZeroUsize) -> Self {
        let system = "Answer with one whole number and nothing else.";
        let role = |name| Role::new(name).with_system(system);
        Self {
            roles: [role("low"), role("high")],
            parts: ["numbers", "closeness"].map(String::from),
            turns,
        }
    }
}

fn target(task: &Task) -> Result<i64, EnvironmentError> {
    let text = task.field("target")?;
    text.parse().map_err(|error| {
        let id = &task.id;
        EnvironmentError::because(format!("task `{id}`: the target is `{text}`"), error)
    })
}

impl Environment for NumberDuet {
    fn roles(&self) -> &[Role] {
        &self.roles
    }

    fn reward_parts(&self) -> &[String] {
        &self.parts
    }

    fn horizon(&self) -> NonZeroUsize {
        self.turns
    }

    fn start(&self, task: &Task) -> Result<Vec<Observation>, EnvironmentError> {
        let target = target(task)?;
        let observe = |part| {
            Observation::new(format!(
                "You and a partner each name a number; they must add up to {target}. Yours is the {part} one."
            ))
        };
        Ok(vec![observe("lower"), observe("higher")])
    }

    fn step(
        &self,
        task: &Task,
        past: &[Turn],
        action: &JointAction,
    ) -> Result<Outcome, EnvironmentError> {
        let target = target(task)?;
        let numbers: Vec<i64> = action
            .texts::<2>()
            .iter()
            .filter_map(|text| text.trim().parse().ok())
            .collect();
        let [low, high] = numbers[..] else {
            return Ok(Outcome::end(Reward::new([
                ("numbers", 0.0),
                ("closeness", 0.0),
            ])));
        };
        let off = target - (low + high);
        let closeness = 1.0 / (1.0 + off.abs() as f64);
        let reward = Reward::new([("numbers", 0.5), ("closeness", closeness)]);
        if off == 0 || past.len() + 1 == self.turns.get() {
            return Ok(Outcome::end(reward));
        }
        let hint = Observation::new(format!("Together you were off by {off}. Try again."));
        Ok(Outcome::continue_with(reward, vec![hint; 2]))
    }
}

fn main() -> Result<(), EnvironmentError> {
    let game = NumberDuet::new(const { NonZeroUsize::new(2).unwrap() });
    let task = Task::new("ten", [("target", "10")]);
    let observations = game.start(&task)?;
    println!("low sees:  {}", observations[0].text);

    let first = JointAction::new(vec![Response::from_text("3"), Response::from_text("6")]);
    let outcome = game.step(&task, &[], &first)?;
    println!("3 + 6 earns {:.2}", outcome.reward.total());
    let Next::Continue(next) = outcome.next else {
        panic!("the first try should miss the target")
    };
    println!("low sees:  {}", next[0].text);

    let past = [Turn {
        observations,
        action: first,
    }];
    let second = JointAction::new(vec![Response::from_text("4"), Response::from_text("6")]);
    let outcome = game.step(&task, &past, &second)?;
    println!("4 + 6 earns {:.2}", outcome.reward.total());
    assert_eq!(outcome.next, Next::End);
    Ok(())
}
