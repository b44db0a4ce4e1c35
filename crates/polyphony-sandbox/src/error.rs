//! Everything that keeps the sandbox from judging.

use std::path::PathBuf;

use thiserror::Error;

use crate::Tier;

/// Why a pool could not be started, or could not judge.
#[derive(Debug, Error)]
pub enum SandboxError {
    /// The system is none on which programs can be confined.
    #[error(
        "untrusted programs cannot be confined on {system}; \
         run Polyphony in a Linux container or on a Linux machine"
    )]
    UnsupportedSystem {
        /// The system.
        system: &'static str,
    },
    /// A pool without workers would wait for ever.
    #[error("the sandbox has 0 workers; set at least 1")]
    NoWorkers,
    /// A limit is out of its range.
    #[error("the sandbox's limit `{limit}` is {given}; it must be from {least} to {most}")]
    Limit {
        /// The limit.
        limit: &'static str,
        /// What was given.
        given: u64,
        /// The least that is allowed.
        least: u64,
        /// The most that is allowed.
        most: u64,
    },
    /// There is no Python.
    #[error(
        "no `python3` in the search path; install Python 3.9 or newer, \
         or name an interpreter in the sandbox's settings"
    )]
    NoInterpreter,
    /// The interpreter does not run, or does not answer as Python does.
    #[error("`{path}` is not usable as a Python interpreter: {reason}")]
    Interpreter {
        /// The interpreter.
        path: PathBuf,
        /// What was seen.
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
    /// Programs cannot be confined here.
    #[error("programs cannot be confined here: {reason}; {help}")]
    Isolation {
        /// Which step of the set-up failed, for each tier that was tried.
        reason: String,
        /// What would help.
        help: String,
    },
    /// The confinement is there but does not do its work.
    #[error("the sandbox's self-test failed at the step \"{step}\" ({tier} tier): {saw}; {help}")]
    SelfTest {
        /// The tier that was tested.
        tier: Tier,
        /// The step.
        step: String,
        /// What was seen.
        saw: String,
        /// What would help.
        help: String,
    },
    /// The tests themselves cannot be run: the program is not to blame.
    #[error("the tests cannot be run: {reason}")]
    Tests {
        /// What is wrong with them.
        reason: String,
    },
    /// The host could not run the program, several times in a row.
    #[error(
        "the sandbox could not run a program in {tries} tries, the last time because {reason}; \
         this says nothing about the program: look for a lack of memory or processes"
    )]
    Infrastructure {
        /// How often it was tried.
        tries: u32,
        /// What the host saw the last time.
        reason: String,
    },
}
