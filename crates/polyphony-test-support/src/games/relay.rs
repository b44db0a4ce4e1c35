//! One agent sees a secret, and the other has to act on it one turn later.

use std::num::NonZeroUsize;

use polyphony_episode::{
    Environment, EnvironmentError, JointAction, Observation, Outcome, Reward, Role, Task, Turn,
};

use super::number;

/// A game of two turns for a scout and a runner.
///
/// At the first turn, only the scout sees the task's `secret`, which is `low` or `high`. The
/// [number](number) of its answer is low (0) or high (1 or 2). The answer earns 0.5 if it agrees with the
/// secret and −0.5 if not. This reward depends on the scout alone, so it is easy to learn from.
///
/// At the second turn, the runner reads whether the scout's number was low or high. The runner's answer
/// earns 1 if it agrees with the secret and −1 if not.
pub struct Relay {
    roles: [Role; 2],
    parts: [String; 2],
}

/// The observations that stand for low and high.
const SIGNALS: [&str; 2] = ["aaaa", "zzzz"];

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
        secret => Err(EnvironmentError::failed(format!(
            "task `{}`: its secret is `{secret}`, but must be low or high",
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
        let signal = SIGNALS[usize::from(secret(task)?)];
        Ok([signal, "wait"].map(Observation::new).into())
    }

    fn step(
        &self,
        task: &Task,
        past: &[Turn],
        action: &JointAction,
    ) -> Result<Outcome, EnvironmentError> {
        let [scout, runner] = action.texts().map(is_high);
        let secret = secret(task)?;
        let sign = |answer| if answer == Some(secret) { 1.0 } else { -1.0 };
        if past.is_empty() {
            let signal = scout.map_or("nothing", |high| SIGNALS[usize::from(high)]);
            let reward = Reward::new([("named", 0.5 * sign(scout))]);
            return Ok(Outcome::continue_with(
                reward,
                ["rest", signal].map(Observation::new).into(),
            ));
        }
        Ok(Outcome::end(Reward::new([("arrived", sign(runner))])))
    }
}
