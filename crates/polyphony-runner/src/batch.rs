//! The batch size of an evaluation.

/// How many rows are decoded together.
const ROWS: usize = 32;

/// How many tasks are played together if each has this many episodes.
pub(crate) fn tasks_at_once(episodes: usize) -> usize {
    (ROWS / episodes).max(1)
}
