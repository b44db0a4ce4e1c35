//! The result of running a program.

use serde::{Deserialize, Serialize};

use crate::{Tier, Verdict};

/// The result of running a program.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProgramResult {
    /// [`Verdict::Passed`] if there is at least one assert and all passed. Otherwise the most severe
    /// verdict of an assert: a violation first, then memory, then time, then a failure.
    pub verdict: Verdict,
    /// Why Python could not compile the program. In this case no assert ran, and all count as failed.
    pub syntax_error: Option<SyntaxError>,
    /// The outcome of each assert, in the order of their source.
    pub asserts: Vec<AssertOutcome>,
    /// The wall-clock time of the run, in seconds.
    pub seconds: f64,
    /// How the program was confined.
    pub tier: Tier,
}

impl ProgramResult {
    /// The number of asserts that passed.
    pub fn passed(&self) -> usize {
        self.asserts
            .iter()
            .filter(|outcome| outcome.verdict == Verdict::Passed)
            .count()
    }
}

/// The syntax error that Python's compiler reports. A running program can forge such a report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyntaxError {
    /// The line, counted from 1; 0 if the compiler reports none.
    pub line: u32,
    /// The column, counted from 1; 0 if the compiler reports none.
    pub column: u32,
    /// The reason.
    pub message: String,
}

/// The outcome of one assert.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AssertOutcome {
    /// The source of the assert statement.
    pub source: String,
    /// Its verdict.
    pub verdict: Verdict,
    /// Why it did not pass: exception and message, shortened and printable.
    pub error: Option<String>,
}
