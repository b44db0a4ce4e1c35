//! The resource limits of a program.

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use crate::SandboxError;

/// The resource limits of a program. Time is limited per assert.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Address space, in megabytes. Since a program cannot fork, this limits its memory too.
    pub address_space_mb: u64,
    /// CPU time of one assert, in seconds.
    pub cpu_secs: u64,
    /// Wall-clock time of one assert, in seconds. It stops programs that wait instead of computing.
    pub wall_secs: u64,
    /// The number of open file descriptors.
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
    /// Refuses limits that are too small for an interpreter, or too large to limit anything.
    pub(crate) fn check(&self) -> Result<(), SandboxError> {
        let within = |limit, value, allowed: RangeInclusive<u64>| {
            if allowed.contains(&value) {
                return Ok(());
            }
            Err(SandboxError::Limit {
                limit,
                value,
                min: *allowed.start(),
                max: *allowed.end(),
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
    fn missing_limits_have_defaults_and_a_misspelt_limit_is_refused() {
        let limits: Limits = serde_json::from_str(r#"{"cpu_secs": 5}"#).unwrap();
        let expected = Limits {
            cpu_secs: 5,
            ..Limits::default()
        };
        assert_eq!(limits, expected);
        assert!(serde_json::from_str::<Limits>(r#"{"cpu_sec": 5}"#).is_err());
    }
}
