//! What the agents are told between two turns: both the same about their program, and each what to
//! write next. Neither is shown code of the other.

use polyphony_episode::Observation;
use polyphony_sandbox::{AssertOutcome, Verdict};

use super::{
    assessment::{Assessment, Definition, Run, all_passed, has_passed, passed},
    function::{Body, HelperUse, Results},
    problem::{HELPER, Problem},
    settings::VisibleAsserts,
};

/// The longest part of an assert, or of what Python says of a program, that is shown, in
/// characters.
const MAX_CHARS: usize = 400;

/// Feedback that is one text for both agents.
#[derive(Clone, Copy, Debug)]
pub(super) enum Report {
    /// Each level in words.
    Levels,
    /// Yes or no for each level.
    LevelsPassed,
    /// Yes or no.
    Passed,
    /// Nothing of the program.
    Plain,
}

impl Report {
    /// One observation a role.
    pub(super) fn observations(
        self,
        problem: &Problem,
        assessment: &Assessment,
        visible: VisibleAsserts,
    ) -> Vec<Observation> {
        let report = self.text(problem, assessment, visible);
        ask_again(problem, &[&report, &report])
    }

    /// What both are told of their program.
    pub(super) fn text(
        self,
        problem: &Problem,
        assessment: &Assessment,
        visible: VisibleAsserts,
    ) -> String {
        let seen = assessment.asserts().map(|asserts| visible.of(asserts));
        match self {
            Self::Levels => levels(problem, assessment, seen),
            Self::LevelsPassed => levels_passed(assessment, seen),
            Self::Passed => format!(
                "Your team's program was tested. Tests passed: {}.",
                yes_or_no(seen.is_some_and(all_passed))
            ),
            Self::Plain => {
                "Look at your code again, and find what is wrong or could be better.".to_owned()
            }
        }
    }
}

/// For each role what it is told of the last turn, and what to write next.
pub(super) fn ask_again(problem: &Problem, told: &[impl AsRef<str>]) -> Vec<Observation> {
    let name = &problem.entry_point;
    let requests = [
        format!("Write an improved `{HELPER}`, which `{name}` may call."),
        format!("Write an improved `{name}`, which may call `{HELPER}`."),
    ];
    let each = told.iter().zip(requests);
    each.map(|(told, request)| {
        let told = told.as_ref().trim();
        Observation::new(format!("{told}\n\n{request} Give its code only."))
    })
    .collect()
}

/// Every level in words.
fn levels(problem: &Problem, assessment: &Assessment, seen: Option<&[AssertOutcome]>) -> String {
    let entry = &problem.entry_point;
    let mut lines = vec![
        "Your team's program was tested.".to_owned(),
        format!("- `{HELPER}`: {}", definition(assessment.helper)),
        format!("- `{entry}`: {}", definition(assessment.entry)),
        format!("- Syntax: {}", syntax(assessment.run.as_ref())),
    ];
    match seen {
        None => lines.push("- Tests: not run.".to_owned()),
        Some(seen) => {
            let (passed, count) = (passed(seen), seen.len());
            lines.push(format!("- Tests: {passed} of {count} passed."));
            let failed = seen.iter().filter(|one| !has_passed(one));
            lines.extend(failed.map(|assert| failure(entry, assert)));
        }
    }
    lines.push(format!(
        "- Use of `{HELPER}`: {}",
        helper_use(entry, assessment)
    ));
    lines.join("\n")
}

fn definition(definition: Definition) -> &'static str {
    match definition {
        Definition::Missing => "not found. Define it with `def`.",
        Definition::WithoutValue => "defined, but it returns no value.",
        Definition::Returns => "defined, and it returns a value.",
    }
}

fn syntax(run: Option<&Run>) -> String {
    match run {
        None => "not checked.".to_owned(),
        Some(Run::Tested(_)) => "correct.".to_owned(),
        Some(Run::SyntaxError(error)) => {
            let place = match (error.line, error.column) {
                (0, _) => String::new(),
                (line, 0) => format!(", line {line}"),
                (line, column) => format!(", line {line}, column {column}"),
            };
            let message = shorten(&error.message, MAX_CHARS);
            format!("error in `{}`{place}: {message}.", error.function)
        }
    }
}

/// A failed assert with the reason, the candidate called by its name.
fn failure(entry: &str, assert: &AssertOutcome) -> String {
    let reason = match (&assert.error, &assert.verdict) {
        (_, Verdict::Timeout) => "it took too long.",
        (_, Verdict::OutOfMemory) => "it took too much memory.",
        (_, Verdict::Violation) => "it did something that is forbidden.",
        (Some(error), _) => error,
        (None, _) => "the result is wrong.",
    };
    let source = shorten(&assert.source, MAX_CHARS);
    format!("  Failed, with `candidate` for `{entry}`: {source}\n  Reason: {reason}")
}

/// The text, or its first part with a mark that it was cut.
pub(super) fn shorten(text: &str, most_chars: usize) -> String {
    match text.char_indices().nth(most_chars) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

fn helper_use(entry: &str, assessment: &Assessment) -> String {
    let told = match (assessment.helper, assessment.helper_use) {
        (Definition::Missing, _) => return format!("there is no `{HELPER}`."),
        _ if assessment.entry == Definition::Missing => return format!("there is no `{entry}`."),
        (_, HelperUse::NotCalled) => format!("does not call `{HELPER}`."),
        (_, HelperUse::Called { body, results }) => match (body, results) {
            (_, Results::Ignored) => format!("calls `{HELPER}`, but throws a result away."),
            (Body::Wrapper, _) => format!("only hands on what `{HELPER}` returns."),
            (Body::Own, Results::Used) => format!("calls `{HELPER}` and uses its results."),
        },
    };
    format!("`{entry}` {told}")
}

/// For every level whether it gave all it can.
fn levels_passed(assessment: &Assessment, seen: Option<&[AssertOutcome]>) -> String {
    let cooperates = HelperUse::Called {
        body: Body::Own,
        results: Results::Used,
    };
    let both = [assessment.helper, assessment.entry];
    let rows = [
        ("Functions defined", both == [Definition::Returns; 2]),
        ("Syntax", seen.is_some()),
        ("Tests", seen.is_some_and(all_passed)),
        (
            "Cooperation",
            assessment.helper != Definition::Missing
                && seen.is_some_and(|seen| passed(seen) > 0)
                && assessment.helper_use == cooperates,
        ),
    ];
    let lines = rows.map(|(level, is_passed)| format!("- {level}: {}", yes_or_no(is_passed)));
    format!(
        "Your team's program was tested. What is right:\n{}",
        lines.join("\n")
    )
}

fn yes_or_no(is_so: bool) -> &'static str {
    if is_so { "yes" } else { "no" }
}

#[cfg(test)]
mod tests;
