//! How much of an evaluation is played together.

/// How many rows are decoded together.
const ROWS: usize = 32;

/// How many tasks are played together, each with this many episodes.
pub(crate) fn tasks_at_once(episodes: usize) -> usize {
    (ROWS / episodes).max(1)
}
