//! The description of a fuzz target.

use std::{path::Path, time::Duration};

use rustix::time::{ClockId, clock_gettime};

/// The most CPU time that an input may take. The engine's own limit counts wall-clock time, which on a busy
/// machine says little about the input.
const MAX_CPU: Duration = Duration::from_secs(5);

/// A function that reads untrusted bytes.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// The name of the target, and of its folder in the corpus.
    pub name: &'static str,
    /// The longest input that the engine tries, in bytes.
    pub max_len: usize,
    /// Writes the files that an input needs around it into a new folder, once.
    pub prepare: fn(&Path),
    /// Reads an input in that folder. Panics if a check fails.
    pub run: fn(&Path, &[u8]),
}

impl Target {
    /// Reads an input in that folder.
    ///
    /// # Panics
    ///
    /// If a check fails, or if this takes more than five seconds of CPU time.
    pub fn check(&self, folder: &Path, bytes: &[u8]) {
        let start = cpu_time();
        (self.run)(folder, bytes);
        let used = cpu_time() - start;
        assert!(used <= MAX_CPU, "the input takes {used:?} of CPU time");
    }
}

/// The CPU time of this process so far, over all its threads.
fn cpu_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap_or_default()
}
