//! How a run is asked to end in order.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

/// Asks for an orderly end: the step or batch at hand is finished, a checkpoint written, and the
/// agents saved. Clones ask for the same end.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Nobody has asked yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks for the end.
    pub fn request(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// Whether somebody has asked.
    pub fn is_requested(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}
