//! A program and its tests.

use serde::{Deserialize, Serialize};

/// An untrusted Python program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// Its source.
    pub source: String,
    /// The function of the program that the tests call.
    pub entry_point: String,
}

/// The trusted Python code that tests a program. The program never sees it.
///
/// A test is an `assert` statement in the function `check` whose condition is not a constant. Nested
/// asserts count too. Asserts with identical source text are one test. An assert in a loop is one test
/// as well, which passes if it ran and never failed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tests {
    /// Runs before `source`, in the same namespace: imports and functions that the tests use.
    pub setup: String,
    /// Defines `check(candidate)`.
    pub source: String,
}
