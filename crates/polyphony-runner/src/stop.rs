//! The token that asks a run to stop in an orderly way.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

/// Asks a run for an orderly end: it finishes the current step or batch, writes a checkpoint, and saves the
/// agents. Clones stop the same run.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// A token that does not ask to stop yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks the run to end.
    pub fn request(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// Whether the run has been asked to end.
    pub fn is_requested(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}
