//! Two agents that cannot communicate must name numbers that add up to a given sum.

use polyphony_episode::{
    Environment, EnvironmentError, JointAction, Observation, Outcome, Reward, Role, Task, Turn,
};

use super::number;

/// A game of one turn. Both agents read the task's field `call` and answer. The answers earn 1 if their
/// [numbers](number) add up to the task's field `sum`. There are several ways to do that, and the agents
/// have to settle on one without communicating.
pub struct Complement {
    roles: [Role; 2],
    parts: [String; 1],
}

impl Complement {
    /// The game.
    pub fn new() -> Self {
        Self {
            roles: ["left", "right"].map(Role::new),
            parts: ["sum".to_owned()],
        }
    }
}

impl Default for Complement {
    fn default() -> Self {
        Self::new()
    }
}

impl Environment for Complement {
    fn roles(&self) -> &[Role] {
        &self.roles
    }

    fn reward_parts(&self) -> &[String] {
        &self.parts
    }

    fn start(&self, task: &Task) -> Result<Vec<Observation>, EnvironmentError> {
        Ok(vec![Observation::new(task.field("call")?); 2])
    }

    fn step(
        &self,
        task: &Task,
        _past: &[Turn],
        action: &JointAction,
    ) -> Result<Outcome, EnvironmentError> {
        let expected = task.field("sum")?;
        let [left, right] = action.texts().map(number);
        let sum = left.zip(right).map(|(left, right)| left + right);
        let is_correct = sum.is_some_and(|sum| sum.to_string() == expected);
        let reward = f64::from(u8::from(is_correct));
        Ok(Outcome::end(Reward::new([("sum", reward)])))
    }
}
