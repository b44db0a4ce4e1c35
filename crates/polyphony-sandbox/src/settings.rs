//! What a pool is to be, and what it turned out to be.

use std::{num::NonZero, path::PathBuf, thread};

use serde::{Deserialize, Serialize};

use crate::{Limits, SandboxError};

/// What a pool is to be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SandboxConfig {
    /// The Python that runs the programs. None takes the `python3` that the search path names.
    pub interpreter: Option<PathBuf>,
    /// How many programs are judged at the same time. None takes as many as there are cores.
    pub workers: Option<usize>,
    /// What a program may use.
    pub limits: Limits,
    /// How programs are confined.
    pub isolation: Isolation,
}

impl SandboxConfig {
    /// Refuses what no pool can be.
    pub(crate) fn check(&self) -> Result<(), SandboxError> {
        if self.workers == Some(0) {
            return Err(SandboxError::NoWorkers);
        }
        self.limits.check()
    }

    /// How many programs are judged at the same time.
    pub(crate) fn workers(&self) -> usize {
        let cores = || thread::available_parallelism().map_or(1, NonZero::get);
        self.workers.unwrap_or_else(cores)
    }
}

/// How programs are to be confined.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Isolation {
    /// The full tier where this system allows it, else the Landlock tier, else an error.
    #[default]
    Strongest,
    /// The Landlock tier, even where more is possible, else an error.
    Landlock,
    /// **No confinement beside resource limits and deadlines.** Programs can then read, write,
    /// connect and kill whatever the caller can. Whoever takes this way round records it.
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
