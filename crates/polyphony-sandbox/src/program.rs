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
/// Each `assert` statement in the function `check` gets its own verdict, unless its condition is a
/// constant. Nested asserts count too. Asserts with identical source text count as one. An assert in a
/// loop counts as one too: it passes if it ran and never failed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tests {
    /// Runs before `source`, in the same namespace: imports and functions that the tests use.
    pub setup: String,
    /// Defines `check(candidate)`.
    pub source: String,
}
