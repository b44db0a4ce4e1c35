//! The workers that judge programs.

use std::{fmt, num::NonZeroUsize};

use crate::{
    Counters, Interpreter, ProgramResult, Program, SandboxError, SelfTest, SandboxConfig, Tests, Tier,
};

#[cfg(target_os = "linux")]
use crate::linux::Engine;
#[cfg(not(target_os = "linux"))]
use crate::other::Engine;

/// A pool of workers that judge untrusted programs.
///
/// A program is run by a *solver* and tested by a *judge*, two confined processes with nothing between
/// them but plain data that the caller's process passes on. After each program both are gone.
///
/// When the pool is dropped, nothing of it is left; when the process that holds it is killed, neither.
pub struct Pool {
    engine: Engine,
}

impl Pool {
    /// Finds the interpreter, sets up the confinement, and tests it: a right program must pass, a
    /// wrong one fail, and five attacks be refused.
    ///
    /// # Errors
    ///
    /// Any [`SandboxError`] but [`SandboxError::Tests`] and [`SandboxError::Infrastructure`]. There is
    /// no pool that is confined less than the settings ask for.
    pub fn start(settings: &SandboxConfig) -> Result<Self, SandboxError> {
        Engine::start(settings).map(|engine| Self { engine })
    }

    /// Judges a program. Blocks until a worker is free and the program is judged, which takes at most
    /// the limits' time for each of its tests. Many threads may call this at the same time.
    ///
    /// # Errors
    ///
    /// [`SandboxError::Tests`] if the tests cannot be run, [`SandboxError::Infrastructure`] if the
    /// host could not run the program several times in a row.
    pub fn judge(&self, program: &Program, tests: &Tests) -> Result<ProgramResult, SandboxError> {
        self.engine.judge(program, tests)
    }

    /// How many programs it judges at the same time.
    pub fn workers(&self) -> NonZeroUsize {
        self.engine.workers()
    }

    /// How programs are confined.
    pub fn tier(&self) -> Tier {
        self.engine.tier()
    }

    /// The Python that runs them.
    pub fn interpreter(&self) -> &Interpreter {
        self.engine.interpreter()
    }

    /// What the pool has done since its start.
    pub fn counters(&self) -> Counters {
        self.engine.counters()
    }

    /// What the self-test saw.
    pub fn report(&self) -> &SelfTest {
        self.engine.report()
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("tier", &self.tier())
            .field("interpreter", self.interpreter())
            .finish_non_exhaustive()
    }
}
