//! What came of a program.

use serde::{Deserialize, Serialize};

use crate::{Tier, Verdict};

/// What came of a program.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProgramResult {
    /// [`Verdict::Passed`] if there is an assert and all passed, else the gravest of theirs: a
    /// violation, then memory, then time, then a failure.
    pub verdict: Verdict,
    /// Why Python could not compile the program. Then no assert ran and all failed.
    pub syntax_error: Option<SyntaxError>,
    /// The tests, in the order of their source.
    pub asserts: Vec<AssertOutcome>,
    /// How long judging took, in seconds on the clock.
    pub seconds: f64,
    /// How the program was confined.
    pub tier: Tier,
}

impl ProgramResult {
    /// How many tests the program passed.
    pub fn passed(&self) -> usize {
        self.asserts
            .iter()
            .filter(|outcome| outcome.verdict == Verdict::Passed)
            .count()
    }
}

/// What Python's compiler said of a program that it refused, or the program of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyntaxError {
    /// The line, counted from 1; 0 where the compiler names none.
    pub line: u32,
    /// The column, counted from 1; 0 where the compiler names none.
    pub column: u32,
    /// The reason.
    pub message: String,
}

/// What came of one test.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AssertOutcome {
    /// The assert statement as it is written.
    pub source: String,
    /// What came of it.
    pub verdict: Verdict,
    /// Why it did not pass: exception and message, shortened and printable.
    pub error: Option<String>,
}
