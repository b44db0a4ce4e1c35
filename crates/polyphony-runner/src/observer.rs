//! The events that a run reports while it works, for whoever displays them.

use polyphony_hub::Transfer;
use polyphony_marl::Progress;

/// Something that happened in a run or an evaluation.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// A phase of `length` units begins, such as the steps of a run. A resumed run starts with `done` of them
    /// done. Phases may be nested.
    PhaseStarted {
        /// A short description.
        title: &'a str,
        /// The number of units in the phase.
        length: usize,
        /// The number of units that are done already.
        done: usize,
    },
    /// Something happened within a training step.
    StepProgress {
        /// What happened.
        progress: Progress,
        /// The number of agents in the team.
        agents: usize,
    },
    /// A training step is done.
    StepDone {
        /// The number of steps that are done.
        done: usize,
        /// The mean return of the step's joint actions at the first turn; NaN if there are none.
        mean_return: f64,
        /// The best joint action of the run so far, if there is one.
        best: Option<&'a BestAction>,
        /// The most turns that an episode can have. If there are several, the reward of `best` is that of a
        /// single turn.
        turns: usize,
        /// Sampled tokens per second.
        tokens_per_sec: f64,
    },
    /// More units of the phase are done.
    PhaseAdvanced {
        /// How many units are done.
        done: usize,
    },
    /// The phase that started last has ended.
    PhaseEnded,
    /// A file of a model is being downloaded.
    Transfer(Transfer<'a>),
}

/// The joint action with the highest reward in a run.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct BestAction {
    /// Its reward.
    pub reward: f64,
    /// The last part of its reward that is not 0; `None` if every part is 0.
    #[serde(alias = "level")]
    pub last_part: Option<String>,
}

/// Receives the events of a run, usually to display them.
pub trait Observer {
    /// Called for every event.
    fn on_event(&mut self, event: Event<'_>);
}

/// Displays nothing.
impl Observer for () {
    fn on_event(&mut self, _: Event<'_>) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_of_an_older_program_has_its_best_action() {
        let best: BestAction = ron::from_str("(reward: 1.5, level: Some(\"overlap\"))").unwrap();
        assert_eq!(best.last_part.as_deref(), Some("overlap"));
    }
}
