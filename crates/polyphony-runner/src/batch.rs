//! The batch size of an evaluation.

/// The number of episodes that should be played together. Each is one row of the batch that an agent decodes.
const ROWS: usize = 32;

/// How many tasks are played together if each has this many episodes: at least one.
pub(crate) fn tasks_at_once(episodes: usize) -> usize {
    (ROWS / episodes).max(1)
}
