//! What a program may use.

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use crate::SandboxError;

/// The most that a program may use. Time is counted for each test on its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Address space, in megabytes. A program that may not fork cannot hold more memory than this.
    pub address_space_mb: u64,
    /// Processor time of one test, in seconds.
    pub cpu_secs: u64,
    /// Time on the clock of one test, in seconds: for a program that waits instead of working.
    pub wall_secs: u64,
    /// Open file descriptors.
    pub descriptors: u64,
    /// The largest file that may be written, in bytes; 0 forbids writing.
    pub file_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            address_space_mb: 320,
            cpu_secs: 2,
            wall_secs: 4,
            descriptors: 64,
            file_bytes: 0,
        }
    }
}

impl Limits {
    /// Refuses limits under which no interpreter runs, or that are none.
    pub(crate) fn check(&self) -> Result<(), SandboxError> {
        let within = |limit, given, allowed: RangeInclusive<u64>| {
            if allowed.contains(&given) {
                return Ok(());
            }
            Err(SandboxError::Limit {
                limit,
                given,
                least: *allowed.start(),
                most: *allowed.end(),
            })
        };
        within("address_space_mb", self.address_space_mb, 128..=1 << 20)?;
        within("cpu_secs", self.cpu_secs, 1..=3600)?;
        within("wall_secs", self.wall_secs, 1..=3600)?;
        within("descriptors", self.descriptors, 16..=4096)?;
        within("file_bytes", self.file_bytes, 0..=1 << 40)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_takes_the_default_and_a_misspelt_limit_is_refused() {
        let limits: Limits = serde_json::from_str(r#"{"cpu_secs": 5}"#).unwrap();
        let expected = Limits {
            cpu_secs: 5,
            ..Limits::default()
        };
        assert_eq!(limits, expected);
        assert!(serde_json::from_str::<Limits>(r#"{"cpu_sec": 5}"#).is_err());
    }
}
