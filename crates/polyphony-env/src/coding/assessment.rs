//! The coding reward: four parts, at most 4.0 together.
//!
//! | part | at most | measures |
//! | --- | --- | --- |
//! | `definitions` | 0.4 + 0.6 | whether helper and entry function are defined and return a value |
//! | `syntax` | 0.5 | whether Python can compile the program |
//! | `tests` | 1.0 | the fraction of asserts that pass |
//! | `cooperation` | 0.5 + 1.0 | how the entry function uses the helper |
//!
//! The parts are scored in this order. Scoring stops at `definitions` if the entry function is missing or
//! returns no value, and at `syntax` if there is a syntax error: all later parts are 0. `cooperation` counts
//! only if an assert passed and a helper was found.

use polyphony_episode::Reward;
use polyphony_sandbox::{AssertOutcome, Verdict};

use super::{
    function::{EntryBody, Function, HelperResults, HelperUse},
    program::LocatedSyntaxError,
};

/// The names of the reward's parts, in the order in which they are scored.
pub(super) const PARTS: [&str; 4] = ["definitions", "syntax", "tests", "cooperation"];

/// Whether a reward belongs to a program that passed all asserts.
pub(super) fn is_solved(reward: &Reward) -> bool {
    reward.part("tests") == Some(1.0)
}

/// The highest reward of a joint action.
pub(super) const MAX_REWARD: f64 = 4.0;

/// How a pair of responses was scored, and why.
#[derive(Clone, Debug, PartialEq)]
pub struct Assessment {
    /// The helper, in the first response.
    pub helper: Definition,
    /// The entry function, in the second response.
    pub entry: Definition,
    /// How the entry function uses the helper.
    pub helper_use: HelperUse,
    /// How the program ran; `None` if there is no entry function that returns a value.
    pub run: Option<ProgramRun>,
}

/// Whether a response defines the requested function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Definition {
    /// The response does not define the function.
    Missing,
    /// The function is defined, but returns no value.
    WithoutValue,
    /// The function is defined and returns a value.
    Returns,
}

/// How a program ran.
#[derive(Clone, Debug, PartialEq)]
pub enum ProgramRun {
    /// Python could not compile it.
    SyntaxError(LocatedSyntaxError),
    /// The outcome of each assert, in the order of the tests.
    Tested(Vec<AssertOutcome>),
}

impl Definition {
    pub(super) fn of(function: Option<&Function>) -> Self {
        match function {
            None => Self::Missing,
            Some(function) if function.returns_value() => Self::Returns,
            Some(_) => Self::WithoutValue,
        }
    }
}

impl Assessment {
    /// The reward. It has every part. Parts that scoring did not reach are 0.
    pub fn reward(&self) -> Reward {
        let values = [
            self.definitions(),
            self.syntax(),
            self.tests(),
            self.cooperation(),
        ];
        Reward::new(PARTS.into_iter().zip(values))
    }

    /// Whether every assert passed.
    pub fn is_solved(&self) -> bool {
        self.asserts().is_some_and(all_passed)
    }

    /// The outcome of each assert; `None` if the program could not be run.
    pub fn asserts(&self) -> Option<&[AssertOutcome]> {
        match &self.run {
            Some(ProgramRun::Tested(asserts)) => Some(asserts),
            Some(ProgramRun::SyntaxError(_)) | None => None,
        }
    }

    fn definitions(&self) -> f64 {
        let points = |definition, points| match definition {
            Definition::Returns => points,
            Definition::WithoutValue | Definition::Missing => 0.0,
        };
        points(self.helper, 0.4) + points(self.entry, 0.6)
    }

    fn syntax(&self) -> f64 {
        if self.asserts().is_some() { 0.5 } else { 0.0 }
    }

    fn tests(&self) -> f64 {
        let asserts = self.asserts().unwrap_or_default();
        if asserts.is_empty() {
            return 0.0;
        }
        passed(asserts) as f64 / asserts.len() as f64
    }

    fn cooperation(&self) -> f64 {
        if self.helper == Definition::Missing || self.tests() == 0.0 {
            return 0.0;
        }
        match self.helper_use {
            HelperUse::NotCalled => 0.0,
            HelperUse::Called { body, results } => {
                let bonus = match body {
                    EntryBody::Wrapper => 0.0,
                    EntryBody::Own => 1.0,
                };
                let penalty = match results {
                    HelperResults::Used => 0.0,
                    HelperResults::Ignored => 0.5,
                };
                0.5 + bonus - penalty
            }
        }
    }
}

/// The number of asserts that passed.
pub(super) fn passed(asserts: &[AssertOutcome]) -> usize {
    asserts.iter().filter(|one| has_passed(one)).count()
}

/// Whether there is at least one assert and all asserts passed.
pub(super) fn all_passed(asserts: &[AssertOutcome]) -> bool {
    !asserts.is_empty() && asserts.iter().all(has_passed)
}

pub(super) fn has_passed(assert: &AssertOutcome) -> bool {
    assert.verdict == Verdict::Passed
}

#[cfg(test)]
mod tests {
    use super::*;

    const USED: HelperUse = called(EntryBody::Own, HelperResults::Used);

    const fn called(body: EntryBody, results: HelperResults) -> HelperUse {
        HelperUse::Called { body, results }
    }

    /// A run of four asserts, of which the first `passed` pass.
    fn tested(passed: usize) -> Option<ProgramRun> {
        let outcome = |index| AssertOutcome {
            source: format!("assert candidate({index})"),
            verdict: if index < passed {
                Verdict::Passed
            } else {
                Verdict::Failed
            },
            error: None,
        };
        Some(ProgramRun::Tested((0..4).map(outcome).collect()))
    }

    fn syntax_error() -> Option<ProgramRun> {
        Some(ProgramRun::SyntaxError(LocatedSyntaxError {
            function: "f".to_owned(),
            line: 1,
            column: 1,
            message: "invalid syntax".to_owned(),
        }))
    }

    #[test]
    fn parts_are_scored_one_after_the_other() {
        use Definition::{Missing, Returns, WithoutValue};
        let wrapper = |results| called(EntryBody::Wrapper, results);
        let ignored = called(EntryBody::Own, HelperResults::Ignored);
        let rows = [
            // Definitions: the entry function is a gate, the helper is not.
            (Missing, Missing, HelperUse::NotCalled, None, [0.0; 4]),
            (
                Returns,
                Missing,
                HelperUse::NotCalled,
                None,
                [0.4, 0.0, 0.0, 0.0],
            ),
            (Returns, WithoutValue, USED, None, [0.4, 0.0, 0.0, 0.0]),
            (WithoutValue, Missing, HelperUse::NotCalled, None, [0.0; 4]),
            // Syntax.
            (Returns, Returns, USED, syntax_error(), [1.0, 0.0, 0.0, 0.0]),
            (Missing, Returns, USED, syntax_error(), [0.6, 0.0, 0.0, 0.0]),
            // Tests: none, some, all; cooperation needs one of them.
            (Returns, Returns, USED, tested(0), [1.0, 0.5, 0.0, 0.0]),
            (Returns, Returns, USED, tested(1), [1.0, 0.5, 0.25, 1.5]),
            (Returns, Returns, USED, tested(4), [1.0, 0.5, 1.0, 1.5]),
            // Cooperation.
            (
                Returns,
                Returns,
                HelperUse::NotCalled,
                tested(4),
                [1.0, 0.5, 1.0, 0.0],
            ),
            (
                Returns,
                Returns,
                wrapper(HelperResults::Used),
                tested(4),
                [1.0, 0.5, 1.0, 0.5],
            ),
            (
                Returns,
                Returns,
                wrapper(HelperResults::Ignored),
                tested(4),
                [1.0, 0.5, 1.0, 0.0],
            ),
            (Returns, Returns, ignored, tested(4), [1.0, 0.5, 1.0, 1.0]),
            (WithoutValue, Returns, USED, tested(4), [0.6, 0.5, 1.0, 1.5]),
            (Missing, Returns, USED, tested(4), [0.6, 0.5, 1.0, 0.0]),
        ];
        for (helper, entry, helper_use, run, expected) in rows {
            let assessment = Assessment {
                helper,
                entry,
                helper_use,
                run,
            };
            let reward = assessment.reward();
            let expected: Vec<(&str, f64)> = PARTS.into_iter().zip(expected).collect();
            assert_eq!(
                reward.parts().collect::<Vec<_>>(),
                expected,
                "{assessment:?}"
            );
            assert!(reward.total() <= MAX_REWARD);
        }
    }

    #[test]
    fn a_problem_is_solved_when_every_assert_passed() {
        for (run, expected) in [
            (tested(4), true),
            (tested(3), false),
            (Some(ProgramRun::Tested(vec![])), false),
            (syntax_error(), false),
            (None, false),
        ] {
            let assessment = Assessment {
                helper: Definition::Returns,
                entry: Definition::Returns,
                helper_use: USED,
                run,
            };
            assert_eq!(assessment.is_solved(), expected, "{assessment:?}");
            assert_eq!(is_solved(&assessment.reward()), expected, "{assessment:?}");
        }
    }
}
