//! The counters of a pool.

use serde::{Deserialize, Serialize};

/// The counters of a pool since its start. The self-test does not count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Counters {
    /// Programs run.
    pub runs: u64,
    /// Programs with an assert whose verdict is `timeout`.
    pub timeouts: u64,
    /// Programs with an assert whose verdict is `out_of_memory`.
    pub out_of_memory: u64,
    /// Programs with an assert whose verdict is `violation`.
    pub violations: u64,
    /// Repeated runs of a program, after the host failed to run it.
    pub infrastructure_retries: u64,
    /// Wall-clock seconds spent running programs, summed over the workers.
    pub seconds: f64,
}

impl Counters {
    /// The difference from an earlier reading of the same pool's counters.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            runs: self.runs - earlier.runs,
            timeouts: self.timeouts - earlier.timeouts,
            out_of_memory: self.out_of_memory - earlier.out_of_memory,
            violations: self.violations - earlier.violations,
            infrastructure_retries: self.infrastructure_retries - earlier.infrastructure_retries,
            seconds: self.seconds - earlier.seconds,
        }
    }
}
