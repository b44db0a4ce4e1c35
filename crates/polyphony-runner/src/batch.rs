//! How much of an evaluation is played together.

/// Rows that are decoded together.
const ROWS: usize = 32;

/// Tasks that are played together, each with this many episodes.
pub(crate) fn tasks_at_once(episodes: usize) -> usize {
    (ROWS / episodes).max(1)
}
