//! The asserts of a test, and what is said of them.

use super::{stopwatch::Used, verdicts::Cause, zygote::HostFailure};
use crate::{AssertOutcome, Verdict};

/// An assert, and what is known of it so far.
#[derive(Debug)]
pub(super) struct Assert {
    source: String,
    outcome: Outcome,
    /// The time that it has used.
    pub(super) used: Used,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    NotReached,
    Passed,
    Failed(Cause),
}

impl Assert {
    /// One that was not reached yet.
    pub(super) fn new(source: String) -> Self {
        Self {
            source,
            outcome: Outcome::NotReached,
            used: Used::default(),
        }
    }

    /// Holds a cause against it; tells whether it was the first, which is the one that is told.
    pub(super) fn fail(&mut self, cause: Cause) -> bool {
        let first = !matches!(self.outcome, Outcome::Failed(_));
        if first {
            self.outcome = Outcome::Failed(cause);
        }
        first
    }

    /// Writes down what a judge says came of it.
    ///
    /// # Errors
    ///
    /// If the judge says nothing that could come of it.
    pub(super) fn record(&mut self, fields: &[String]) -> Result<(), HostFailure> {
        match outcome_of(fields)? {
            Some(cause) => drop(self.fail(cause)),
            None if self.is_open() => self.outcome = Outcome::Passed,
            // Once failed is failed.
            None => {}
        }
        Ok(())
    }

    /// Whether nothing has come of it yet.
    pub(super) fn is_open(&self) -> bool {
        self.outcome == Outcome::NotReached
    }

    /// What came of it in the end.
    pub(super) fn outcome(self) -> AssertOutcome {
        let (verdict, error) = match self.outcome {
            Outcome::Passed => (Verdict::Passed, None),
            Outcome::Failed(cause) => (cause.verdict, Some(cause.text)),
            Outcome::NotReached => (Verdict::Failed, None),
        };
        AssertOutcome {
            source: self.source,
            verdict,
            error,
        }
    }
}

/// What a judge says came of something: `None` if it passed.
pub(super) fn outcome_of(fields: &[String]) -> Result<Option<Cause>, HostFailure> {
    match fields {
        [sort, _] if sort == "passed" => Ok(None),
        [sort, text] => Cause::of_sort(sort, text)
            .map(Some)
            .ok_or_else(|| format!("a judge spoke of the sort {sort:?}")),
        _ => Err("a judge's outcome is malformed".to_owned()),
    }
}
