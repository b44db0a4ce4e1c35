//! What is judged, and by what.

use serde::{Deserialize, Serialize};

/// An untrusted Python program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// Its source.
    pub source: String,
    /// The function in it that the tests call.
    pub entry_point: String,
}

/// The trusted Python code that judges a program. The program never sees it.
///
/// A test is an `assert` statement in the function `check`, nested ones included, whose condition
/// is not a constant. Identical source text counts once. An assert in a loop is one test, which
/// passes when it ran and never failed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tests {
    /// Runs before `source`, in the same names: imports and functions that the tests use.
    pub setup: String,
    /// Defines `check(candidate)`.
    pub source: String,
}
