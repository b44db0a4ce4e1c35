//! How a run is asked to stop in an orderly way.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

/// Asks for an orderly end: the current step or batch is finished, a checkpoint is written, and the agents
/// are saved. Clones stop the same run.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// A token that has not been used.
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
