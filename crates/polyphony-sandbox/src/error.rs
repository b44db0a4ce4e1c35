//! The errors of the sandbox.

use std::path::PathBuf;

use thiserror::Error;

use crate::Tier;

/// Why a pool could not be started, or could not run a program.
#[derive(Debug, Error)]
pub enum SandboxError {
    /// Programs cannot be confined on this operating system.
    #[error(
        "untrusted programs cannot be confined on {system}; \
         run Polyphony in a Linux container or on a Linux machine"
    )]
    UnsupportedSystem {
        /// The system.
        system: &'static str,
    },
    /// A pool without workers would wait forever.
    #[error("the sandbox has 0 workers; set at least 1")]
    NoWorkers,
    /// A limit is out of its range.
    #[error("the sandbox's limit `{limit}` is {value}; it must be from {min} to {max}")]
    Limit {
        /// The limit.
        limit: &'static str,
        /// Its value.
        value: u64,
        /// The smallest allowed value.
        min: u64,
        /// The largest allowed value.
        max: u64,
    },
    /// No Python was found.
    #[error(
        "no `python3` in the search path; install Python 3.9 or newer, \
         or name an interpreter in the sandbox's settings"
    )]
    NoInterpreter,
    /// The interpreter does not run, or does not answer like Python.
    #[error("`{path}` is not usable as a Python interpreter: {reason}")]
    Interpreter {
        /// The interpreter.
        path: PathBuf,
        /// Why it is not usable.
        reason: String,
    },
    /// The interpreter is too old.
    #[error("`{path}` is Python {version}; the sandbox needs 3.9 or newer")]
    InterpreterTooOld {
        /// The interpreter.
        path: PathBuf,
        /// Its version.
        version: String,
    },
    /// Programs cannot be confined on this machine.
    #[error("programs cannot be confined here: {reason}; {help}")]
    Isolation {
        /// The step of the setup that failed, for each tier that was tried.
        reason: String,
        /// What would help.
        help: String,
    },
    /// The confinement was set up but does not work.
    #[error(
        "the sandbox's self-test failed at the step \"{step}\" ({tier} tier): {observed}; {help}"
    )]
    SelfTest {
        /// The tier that was tested.
        tier: Tier,
        /// The step.
        step: String,
        /// What was observed.
        observed: String,
        /// What would help.
        help: String,
    },
    /// The tests themselves cannot be run. The program is not the cause.
    #[error("the tests cannot be run: {reason}")]
    Tests {
        /// What is wrong with the tests.
        reason: String,
    },
    /// The host could not run the program, several times in a row.
    #[error(
        "the sandbox could not run a program in {tries} tries, the last time because {reason}; \
         the program is not the cause: check whether the machine lacks memory or processes"
    )]
    Infrastructure {
        /// The number of tries.
        tries: u32,
        /// Why the last try failed.
        reason: String,
    },
}
