//! Two agents invent a number plate: one writes the letters, the other the digits.

use polyphony::episode::{
    Environment, EnvironmentError, EnvironmentSettings, JointAction, Observation, Outcome, Reward,
    Role, Split, Task, Turn,
};
use serde::{Deserialize, Serialize};

/// The settings, as a recipe gives them: `NumberPlate(digits: 4)`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NumberPlate {
    /// How many letters a plate should have.
    letters: usize,
    /// How many digits a plate should have.
    digits: usize,
}

impl Default for NumberPlate {
    fn default() -> Self {
        Self {
            letters: 3,
            digits: 3,
        }
    }
}

impl EnvironmentSettings for NumberPlate {
    fn build(&self) -> Result<Box<dyn Environment>, EnvironmentError> {
        if self.letters + self.digits == 0 {
            return Err(EnvironmentError::failed(
                "`letters` and `digits` are both 0, but a plate must have at least one character",
            ));
        }
        Ok(Box::new(Plates {
            settings: self.clone(),
            roles: ["letters", "digits"].map(Role::new),
            parts: ["letters", "digits", "lengths"].map(str::to_owned),
        }))
    }
}

/// The game itself. It holds no episode state.
struct Plates {
    settings: NumberPlate,
    roles: [Role; 2],
    parts: [String; 3],
}

const TRAIN: [&str; 6] = ["Ulm", "Bonn", "Jena", "Kiel", "Hof", "Celle"];
const HELD_OUT: [&str; 2] = ["Gera", "Trier"];

impl Environment for Plates {
    fn roles(&self) -> &[Role] {
        &self.roles
    }

    fn reward_parts(&self) -> &[String] {
        &self.parts
    }

    /// The environment's own tasks, so that a recipe needs no data set.
    fn tasks(&self, split: Split) -> Option<Vec<Task>> {
        let towns: &[&str] = match split {
            Split::Train => &TRAIN,
            Split::HeldOut => &HELD_OUT,
        };
        let task = |town: &&str| Task::new(*town, [("town", *town)]);
        Some(towns.iter().map(task).collect())
    }

    fn start(&self, task: &Task) -> Result<Vec<Observation>, EnvironmentError> {
        let town = task.field("town")?;
        let NumberPlate { letters, digits } = self.settings;
        Ok(vec![
            Observation::new(format!("{town}: {letters} letters")),
            Observation::new(format!("{town}: {digits} digits")),
        ])
    }

    fn step(
        &self,
        _task: &Task,
        _past: &[Turn],
        action: &JointAction,
    ) -> Result<Outcome, EnvironmentError> {
        let [letters, digits] = action.texts();
        let NumberPlate {
            letters: letter_count,
            digits: digit_count,
        } = self.settings;
        let reward = Reward::new([
            ("letters", fraction(letters, |c| c.is_ascii_alphabetic())),
            ("digits", fraction(digits, |c| c.is_ascii_digit())),
            (
                "lengths",
                (closeness(letters, letter_count) + closeness(digits, digit_count)) / 2.0,
            ),
        ]);
        Ok(Outcome::end(reward))
    }
}

/// The fraction of a text's characters that are of the wanted kind; 0 for an empty text.
fn fraction(text: &str, is_wanted: impl Fn(char) -> bool) -> f64 {
    let matches = text
        .chars()
        .filter(|&character| is_wanted(character))
        .count();
    matches as f64 / text.chars().count().max(1) as f64
}

/// 1 for a text of the wanted length, and less for a text that is longer or shorter.
fn closeness(text: &str, wanted_length: usize) -> f64 {
    1.0 / (1.0 + text.chars().count().abs_diff(wanted_length) as f64)
}

#[cfg(test)]
mod tests {
    use polyphony::episode::Response;

    use super::*;

    #[test]
    fn a_perfect_plate_earns_every_part_in_full() {
        let game = NumberPlate::default().build().unwrap();
        let task = &game.tasks(Split::Train).unwrap()[0];
        let reward = |letters, digits| {
            let texts = [letters, digits].map(Response::from_text);
            let action = JointAction::new(texts.into());
            game.step(task, &[], &action).unwrap().reward
        };
        assert_eq!(reward("ULM", "123").total(), 3.0);
        assert_eq!(reward("UL1", "123").part("letters"), Some(2.0 / 3.0));
        assert_eq!(reward("ULM", "").part("lengths"), Some((1.0 + 0.25) / 2.0));
        assert!(
            NumberPlate {
                letters: 0,
                digits: 0
            }
            .build()
            .is_err()
        );
    }
}
