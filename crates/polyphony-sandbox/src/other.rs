//! The engine on systems on which programs cannot be confined.

use std::{convert::Infallible, env, num::NonZeroUsize};

use crate::{
    Counters, Interpreter, Program, ProgramResult, SandboxConfig, SandboxError, SelfTest, Tests,
    Tier,
};

/// An engine that never exists.
pub(crate) struct Engine(Infallible);

impl Engine {
    pub(crate) fn start(settings: &SandboxConfig) -> Result<Self, SandboxError> {
        settings.check()?;
        Err(SandboxError::UnsupportedSystem {
            system: env::consts::OS,
        })
    }

    pub(crate) fn run(&self, _: &Program, _: &Tests) -> Result<ProgramResult, SandboxError> {
        match self.0 {}
    }

    pub(crate) fn workers(&self) -> NonZeroUsize {
        match self.0 {}
    }

    pub(crate) fn tier(&self) -> Tier {
        match self.0 {}
    }

    pub(crate) fn interpreter(&self) -> &Interpreter {
        match self.0 {}
    }

    pub(crate) fn counters(&self) -> Counters {
        match self.0 {}
    }

    pub(crate) fn self_test(&self) -> &SelfTest {
        match self.0 {}
    }
}
