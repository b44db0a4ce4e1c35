//! What a run reports while it works, for those who show it.

use polyphony_hub::Transfer;
use polyphony_marl::Progress;

/// Something that happened in a run or an evaluation.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// A phase of `length` units begins, such as the steps of a run; `done` of them are done already. Phases
    /// may be nested.
    Begun {
        /// A short description.
        title: &'a str,
        /// The units of the phase.
        length: usize,
        /// The units that are done already.
        done: usize,
    },
    /// Within a step of training.
    Within {
        /// What happened.
        progress: Progress,
        /// The agents of the team.
        agents: usize,
    },
    /// A training step is done.
    Step {
        /// Steps that are done.
        done: usize,
        /// The mean return of the step's joint actions at the first turn; NaN if there were none.
        mean_return: f64,
        /// The best joint action of the run so far, if there is one.
        best: Option<&'a Best>,
        /// The most turns of an episode. With several, `best` is the reward of one of them.
        turns: usize,
        /// Sampled tokens per second.
        tokens_per_sec: f64,
    },
    /// Units of the phase are done.
    Advanced {
        /// How many units are done.
        done: usize,
    },
    /// The phase that began last has ended.
    Ended,
    /// A file of a model is being downloaded.
    Transfer(Transfer<'a>),
}

/// The highest reward of a joint action in a run, and the level that it reached: the last part of the
/// reward that is not 0.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Best {
    /// The reward.
    pub reward: f64,
    /// The name of the part; `None` if every part is 0.
    pub level: Option<String>,
}

/// Shows a run.
pub trait Observer {
    /// Something happened.
    fn on_event(&mut self, event: Event<'_>);
}

/// Shows nothing.
impl Observer for () {
    fn on_event(&mut self, _: Event<'_>) {}
}
