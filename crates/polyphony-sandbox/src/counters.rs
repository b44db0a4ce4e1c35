//! What a pool has done so far.

use serde::{Deserialize, Serialize};

/// What a pool has done since its start. The self-test does not count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Counters {
    /// Programs judged.
    pub runs: u64,
    /// Of these, programs with a test that was stopped for its time.
    pub timeouts: u64,
    /// Programs with a test that asked for too much memory.
    pub out_of_memory: u64,
    /// Programs with a test in which something forbidden was tried.
    pub violations: u64,
    /// Times that a program was run again because the host could not run it.
    pub infrastructure_retries: u64,
    /// Seconds on the clock spent judging, summed over the workers.
    pub seconds: f64,
}

impl Counters {
    /// What was done since an earlier reading of the same pool's counters.
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
