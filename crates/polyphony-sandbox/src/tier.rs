//! The confinement that a pool has.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The confinement that a pool has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    /// Namespaces of its own with a root that holds the interpreter alone, resource limits,
    /// Landlock and seccomp.
    Full,
    /// Resource limits, Landlock and seccomp.
    Landlock,
    /// Resource limits.
    Off,
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "full",
            Self::Landlock => "landlock",
            Self::Off => "off",
        })
    }
}
