//! The confinement that a pool's programs get.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The confinement that a pool's programs get. [`Isolation`](crate::Isolation) is what the caller asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    /// Separate namespaces with a root that contains only the interpreter, resource limits, Landlock and
    /// seccomp.
    Full,
    /// Resource limits, Landlock and seccomp.
    Landlock,
    /// Resource limits only.
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
