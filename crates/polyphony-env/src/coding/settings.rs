//! The settings of a coding episode.

use std::num::NonZeroUsize;

use serde::{Deserialize, Serialize};

use super::expert::ExpertSettings;

/// The settings of a coding episode: its turns and its feedback.
///
/// ```
/// # use polyphony_env::{CodingSettings, Feedback, VisibleAsserts};
/// let recipe = "(turns: 2, feedback: Passed, visible_asserts: All)";
/// let settings: CodingSettings = ron::from_str(recipe)?;
/// assert_eq!(settings.feedback, Feedback::Passed);
/// assert_eq!(settings.visible_asserts, VisibleAsserts::All);
/// assert_eq!(CodingSettings::default().turns.get(), 1);
/// # Ok::<(), ron::error::SpannedError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CodingSettings {
    /// The number of turns of an episode.
    pub turns: NonZeroUsize,
    /// Whether an episode may end earlier.
    pub ending: Ending,
    /// The feedback that the agents get between two turns.
    pub feedback: Feedback,
    /// The asserts that feedback is about: it neither counts nor shows the others. Rewards always count all
    /// asserts.
    pub visible_asserts: VisibleAsserts,
}

impl Default for CodingSettings {
    fn default() -> Self {
        Self {
            turns: NonZeroUsize::MIN,
            ending: Ending::default(),
            feedback: Feedback::default(),
            visible_asserts: VisibleAsserts::default(),
        }
    }
}

/// When an episode ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Ending {
    /// After [`CodingSettings::turns`] turns.
    #[default]
    AfterTurns,
    /// As soon as a program passes all asserts, but at the latest after [`CodingSettings::turns`] turns.
    WhenSolved,
}

/// The feedback that the agents get between two turns.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub enum Feedback {
    /// Each part of the reward in words: the definitions, the syntax error, failed asserts with their
    /// errors, how the helper is used.
    #[default]
    LevelFeedback,
    /// For each part of the reward, yes or no: whether everything is right.
    LevelPassed,
    /// Whether all visible asserts passed.
    Passed,
    /// Only the request to revise the code.
    Plain,
    /// An outside model's suggestions for each agent. The model sees both responses and the text of
    /// [`Feedback::LevelFeedback`]. This is the only feedback that is not deterministic.
    ExpertEdits(ExpertSettings),
}

/// The asserts that feedback is about, in the order of the tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum VisibleAsserts {
    /// The first few.
    First(NonZeroUsize),
    /// The last few.
    Last(NonZeroUsize),
    /// All of them.
    All,
}

impl Default for VisibleAsserts {
    fn default() -> Self {
        Self::First(NonZeroUsize::MIN)
    }
}

impl VisibleAsserts {
    /// The visible ones of `asserts`.
    pub fn of<T>(self, asserts: &[T]) -> &[T] {
        let count = asserts.len();
        match self {
            Self::First(max) => &asserts[..max.get().min(count)],
            Self::Last(max) => &asserts[count - max.get().min(count)..],
            Self::All => asserts,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_the_last_or_all_asserts_are_visible() {
        let some = |count| NonZeroUsize::new(count).unwrap();
        let rows: [(_, &[i32]); 6] = [
            (VisibleAsserts::default(), &[1]),
            (VisibleAsserts::First(some(2)), &[1, 2]),
            (VisibleAsserts::First(some(9)), &[1, 2, 3]),
            (VisibleAsserts::Last(some(2)), &[2, 3]),
            (VisibleAsserts::Last(some(9)), &[1, 2, 3]),
            (VisibleAsserts::All, &[1, 2, 3]),
        ];
        for (visible, expected) in rows {
            assert_eq!(visible.of(&[1, 2, 3]), expected, "{visible:?}");
            assert_eq!(visible.of(&[0; 0]), [0; 0], "{visible:?}");
        }
    }

    #[test]
    fn settings_are_read_strictly_and_default_to_one_turn() {
        let read = |text: &str| ron::from_str::<CodingSettings>(text);
        assert_eq!(read("()").unwrap(), CodingSettings::default());
        let settings = CodingSettings {
            turns: NonZeroUsize::new(3).unwrap(),
            ending: Ending::WhenSolved,
            feedback: Feedback::Plain,
            visible_asserts: VisibleAsserts::Last(NonZeroUsize::new(2).unwrap()),
        };
        let text = "(turns: 3, ending: WhenSolved, feedback: Plain, visible_asserts: Last(2))";
        assert_eq!(read(text).unwrap(), settings);
        assert_eq!(read(&ron::to_string(&settings).unwrap()).unwrap(), settings);
        for wrong in ["(turns: 0)", "(turn: 1)", "(visible_asserts: Last(0))"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
