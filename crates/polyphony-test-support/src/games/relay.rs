//! One agent sees something, the other has to act on it a turn later.

use std::num::NonZeroUsize;

use polyphony_episode::{
    Environment, EnvironmentError, JointAction, Observation, Outcome, Reward, Role, Task, Turn,
};

use super::number;

/// A game of two turns for a scout and a runner.
///
/// At the first turn the scout alone sees the task's `secret`, `low` or `high`, and says something.
/// Whether its [number](number) is low (0) or high (1 or 2) is what the runner is told at the second
/// turn, and what the runner then says earns 1 if that is low or high as the secret is, and −1 if not.
/// That the scout says what it saw earns 0.5 or −0.5 at once: a signal that is easy to find.
pub struct Relay {
    roles: [Role; 2],
    parts: [String; 2],
}

/// What stands for low and high in what agents are told.
const SIGNS: [&str; 2] = ["aaaa", "zzzz"];

impl Relay {
    /// The game.
    pub fn new() -> Self {
        Self {
            roles: ["scout", "runner"].map(Role::new),
            parts: ["named", "arrived"].map(String::from),
        }
    }
}

/// Whether a text's number is high.
fn is_high(text: &str) -> Option<bool> {
    number(text).map(|number| number > 0)
}

/// Whether a task's secret is high.
fn secret(task: &Task) -> Result<bool, EnvironmentError> {
    match task.field("secret")? {
        "low" => Ok(false),
        "high" => Ok(true),
        other => Err(EnvironmentError::failed(format!(
            "task `{}`: its secret is `{other}`, but must be low or high",
            task.id
        ))),
    }
}

impl Default for Relay {
    fn default() -> Self {
        Self::new()
    }
}

impl Environment for Relay {
    fn roles(&self) -> &[Role] {
        &self.roles
    }

    fn reward_parts(&self) -> &[String] {
        &self.parts
    }

    fn horizon(&self) -> NonZeroUsize {
        const { NonZeroUsize::new(2).unwrap() }
    }

    fn start(&self, task: &Task) -> Result<Vec<Observation>, EnvironmentError> {
        let seen = SIGNS[usize::from(secret(task)?)];
        Ok([seen, "wait"].map(Observation::new).into())
    }

    fn step(
        &self,
        task: &Task,
        past: &[Turn],
        action: &JointAction,
    ) -> Result<Outcome, EnvironmentError> {
        let [scout, runner] = action.texts().map(is_high);
        let secret = secret(task)?;
        let sign = |said| if said == Some(secret) { 1.0 } else { -1.0 };
        if past.is_empty() {
            let told = scout.map_or("nothing", |high| SIGNS[usize::from(high)]);
            let named = Reward::new([("named", 0.5 * sign(scout))]);
            return Ok(Outcome::continue_with(
                named,
                ["rest", told].map(Observation::new).into(),
            ));
        }
        Ok(Outcome::end(Reward::new([("arrived", sign(runner))])))
    }
}
