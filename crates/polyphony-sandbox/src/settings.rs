//! The configuration of a pool, and the interpreter that it found.

use std::{num::NonZero, path::PathBuf, thread};

use serde::{Deserialize, Serialize};

use crate::{Limits, SandboxError};

/// The configuration of a pool.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SandboxConfig {
    /// The Python that runs the programs. `None` takes `python3` from the search path.
    pub interpreter: Option<PathBuf>,
    /// How many programs run at the same time. `None` takes the number of cores.
    pub workers: Option<usize>,
    /// The resource limits of a program.
    pub limits: Limits,
    /// How programs are confined.
    pub isolation: Isolation,
}

impl SandboxConfig {
    /// Refuses settings with which no pool can work.
    pub(crate) fn check(&self) -> Result<(), SandboxError> {
        if self.workers == Some(0) {
            return Err(SandboxError::NoWorkers);
        }
        self.limits.check()
    }

    /// How many programs run at the same time.
    pub(crate) fn workers(&self) -> usize {
        let cores = || thread::available_parallelism().map_or(1, NonZero::get);
        self.workers.unwrap_or_else(cores)
    }
}

/// How programs should be confined. [`Tier`](crate::Tier) is the confinement that they actually get.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Isolation {
    /// The full tier if it works here, otherwise the Landlock tier. If neither works, it is an error.
    #[default]
    Strongest,
    /// The Landlock tier, even if more is possible. If it does not work, it is an error.
    Landlock,
    /// **No confinement besides resource limits and deadlines.** Programs can then read, write,
    /// connect and kill whatever the caller can. A caller that uses this must record it.
    Off,
}

/// The Python that runs the programs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interpreter {
    /// Its real path, outside any virtual environment.
    pub path: PathBuf,
    /// Its version, such as `3.11.7`.
    pub version: String,
}
