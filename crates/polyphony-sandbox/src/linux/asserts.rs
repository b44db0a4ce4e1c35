//! The asserts of the tests, and their outcomes.

use super::{stopwatch::TimeUsed, verdicts::Cause, zygote::HostFailure};
use crate::{AssertOutcome, Verdict};

/// An assert and its outcome so far.
#[derive(Debug)]
pub(super) struct Assert {
    source: String,
    outcome: Outcome,
    /// The time that the assert has used.
    pub(super) time_used: TimeUsed,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    NotReached,
    Passed,
    Failed(Cause),
}

impl Assert {
    /// An assert that was not reached yet.
    pub(super) fn new(source: String) -> Self {
        Self {
            source,
            outcome: Outcome::NotReached,
            time_used: TimeUsed::default(),
        }
    }

    /// Fails the assert, unless it has failed before: only the first cause is reported. Returns whether
    /// this cause was the first.
    pub(super) fn fail(&mut self, cause: Cause) -> bool {
        let is_first = self.failure().is_none();
        if is_first {
            self.outcome = Outcome::Failed(cause);
        }
        is_first
    }

    /// Records the outcome that a judge reports.
    ///
    /// # Errors
    ///
    /// If the report is malformed.
    pub(super) fn record(&mut self, fields: &[String]) -> Result<(), HostFailure> {
        match outcome_of(fields)? {
            Some(cause) => drop(self.fail(cause)),
            None if self.is_open() => self.outcome = Outcome::Passed,
            // A failed assert stays failed.
            None => {}
        }
        Ok(())
    }

    /// Whether the assert has no outcome yet.
    pub(super) fn is_open(&self) -> bool {
        self.outcome == Outcome::NotReached
    }

    /// Why the assert failed, if it did.
    pub(super) fn failure(&self) -> Option<&Cause> {
        match &self.outcome {
            Outcome::Failed(cause) => Some(cause),
            Outcome::NotReached | Outcome::Passed => None,
        }
    }

    /// The final outcome of the assert.
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

/// Reads an outcome that a judge reports; `None` if nothing failed.
pub(super) fn outcome_of(fields: &[String]) -> Result<Option<Cause>, HostFailure> {
    match fields {
        [category, _] if category == "passed" => Ok(None),
        [category, text] => Cause::of_category(category, text).map(Some).ok_or_else(|| {
            format!("a judge reported an outcome of the unknown category {category:?}")
        }),
        _ => Err("a judge's outcome is malformed".to_owned()),
    }
}
