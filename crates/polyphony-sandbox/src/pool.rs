//! The pool of workers that run programs.

use std::{fmt, num::NonZeroUsize};

use crate::{
    Counters, Interpreter, Program, ProgramResult, SandboxConfig, SandboxError, SelfTest, Tests,
    Tier,
};

#[cfg(target_os = "linux")]
use crate::linux::Engine;
#[cfg(not(target_os = "linux"))]
use crate::other::Engine;

/// A pool of workers that run untrusted programs against tests.
///
/// A *solver* runs the program and a *judge* runs the tests. Both are confined processes. They exchange
/// only plain data, which the caller's process passes on. Both end after each program.
///
/// No process is left after the pool is dropped, or after the process that owns it is killed.
pub struct Pool {
    engine: Engine,
}

impl Pool {
    /// Finds the interpreter, sets up the confinement, and tests it. In this self-test a correct program
    /// must pass, a wrong program must fail, and five attacks must be refused unless isolation is
    /// off.
    ///
    /// # Errors
    ///
    /// Any [`SandboxError`] except [`SandboxError::Tests`] and [`SandboxError::Infrastructure`]. A pool
    /// never starts with less confinement than the settings ask for.
    pub fn start(settings: &SandboxConfig) -> Result<Self, SandboxError> {
        Engine::start(settings).map(|engine| Self { engine })
    }

    /// Runs a program against tests. Blocks until a worker is free and the program has run. Each assert
    /// has the time limits of [`Limits`](crate::Limits). The setup of the tests, which is trusted code, may take
    /// 20 s in addition. Many threads may call this at the same time.
    ///
    /// # Errors
    ///
    /// [`SandboxError::Tests`] if the tests cannot be run, [`SandboxError::Infrastructure`] if several
    /// tries in a row failed because of the host.
    pub fn run(&self, program: &Program, tests: &Tests) -> Result<ProgramResult, SandboxError> {
        self.engine.run(program, tests)
    }

    /// The number of programs that run at the same time.
    pub fn workers(&self) -> NonZeroUsize {
        self.engine.workers()
    }

    /// How programs are confined.
    pub fn tier(&self) -> Tier {
        self.engine.tier()
    }

    /// The Python that runs the programs.
    pub fn interpreter(&self) -> &Interpreter {
        self.engine.interpreter()
    }

    /// The pool's counters since its start.
    pub fn counters(&self) -> Counters {
        self.engine.counters()
    }

    /// The results of the self-test.
    pub fn self_test(&self) -> &SelfTest {
        self.engine.self_test()
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
