//! The feedback between two turns. Both agents get the same report on their program, and each is told
//! what to write next. Neither agent sees the other's code.

use polyphony_episode::Observation;
use polyphony_sandbox::{AssertOutcome, Verdict};

use super::{
    assessment::{Assessment, Definition, ProgramRun, all_passed, has_passed, passed},
    function::{EntryBody, HelperResults, HelperUse},
    problem::{HELPER, Problem},
    settings::VisibleAsserts,
};

/// Asserts and Python's messages are cut to this many characters.
const MAX_CHARS: usize = 400;

/// The kind of report on the program. Both agents get the same report.
#[derive(Clone, Copy, Debug)]
pub(super) enum ReportKind {
    /// Each part of the reward in words.
    Levels,
    /// Yes or no for each part of the reward.
    LevelsPassed,
    /// One yes or no: whether all visible asserts passed.
    Passed,
    /// Nothing about the program.
    Plain,
}

impl ReportKind {
    /// One observation per role.
    pub(super) fn observations(
        self,
        problem: &Problem,
        assessment: &Assessment,
        visible: VisibleAsserts,
    ) -> Vec<Observation> {
        let report = self.text(problem, assessment, visible);
        ask_again(problem, &[&report, &report])
    }

    /// The report's text.
    pub(super) fn text(
        self,
        problem: &Problem,
        assessment: &Assessment,
        visible: VisibleAsserts,
    ) -> String {
        let asserts = assessment.asserts().map(|asserts| visible.of(asserts));
        match self {
            Self::Levels => levels(problem, assessment, asserts),
            Self::LevelsPassed => levels_passed(assessment, asserts),
            Self::Passed => format!(
                "Your team's program was tested. Tests passed: {}.",
                yes_or_no(asserts.is_some_and(all_passed))
            ),
            Self::Plain => {
                "Look at your code again, and find what is wrong or could be better.".to_owned()
            }
        }
    }
}

/// One observation per role: its feedback on the last turn, and what to write next.
pub(super) fn ask_again(problem: &Problem, feedback: &[impl AsRef<str>]) -> Vec<Observation> {
    let name = &problem.entry_point;
    let requests = [
        format!("Write an improved `{HELPER}`, which `{name}` may call."),
        format!("Write an improved `{name}`, which may call `{HELPER}`."),
    ];
    let per_role = feedback.iter().zip(requests);
    per_role
        .map(|(feedback, request)| {
            let feedback = feedback.as_ref().trim();
            Observation::new(format!("{feedback}\n\n{request} Give its code only."))
        })
        .collect()
}

/// Every part of the reward in words.
fn levels(
    problem: &Problem,
    assessment: &Assessment,
    visible_asserts: Option<&[AssertOutcome]>,
) -> String {
    let entry = &problem.entry_point;
    let mut lines = vec![
        "Your team's program was tested.".to_owned(),
        format!("- `{HELPER}`: {}", definition(assessment.helper)),
        format!("- `{entry}`: {}", definition(assessment.entry)),
        format!("- Syntax: {}", syntax(assessment.run.as_ref())),
    ];
    match visible_asserts {
        None => lines.push("- Tests: not run.".to_owned()),
        Some(asserts) => {
            let (passed, count) = (passed(asserts), asserts.len());
            lines.push(format!("- Tests: {passed} of {count} passed."));
            let failed = asserts.iter().filter(|one| !has_passed(one));
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

fn syntax(run: Option<&ProgramRun>) -> String {
    match run {
        None => "not checked.".to_owned(),
        Some(ProgramRun::Tested(_)) => "correct.".to_owned(),
        Some(ProgramRun::SyntaxError(error)) => {
            let position = match (error.line, error.column) {
                (0, _) => String::new(),
                (line, 0) => format!(", line {line}"),
                (line, column) => format!(", line {line}, column {column}"),
            };
            let message = shorten(&error.message, MAX_CHARS);
            format!("error in `{}`{position}: {message}.", error.function)
        }
    }
}

/// A failed assert with its reason. It explains that `candidate` stands for the entry function.
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

/// The text, or its first part and `…` if it is longer than `max_chars`.
pub(super) fn shorten(text: &str, max_chars: usize) -> String {
    match text.char_indices().nth(max_chars) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

fn helper_use(entry: &str, assessment: &Assessment) -> String {
    let description = match (assessment.helper, assessment.helper_use) {
        (Definition::Missing, _) => return format!("there is no `{HELPER}`."),
        _ if assessment.entry == Definition::Missing => return format!("there is no `{entry}`."),
        (_, HelperUse::NotCalled) => format!("does not call `{HELPER}`."),
        (_, HelperUse::Called { body, results }) => match (body, results) {
            (_, HelperResults::Ignored) => format!("calls `{HELPER}`, but throws a result away."),
            (EntryBody::Wrapper, _) => format!("only hands on what `{HELPER}` returns."),
            (EntryBody::Own, HelperResults::Used) => {
                format!("calls `{HELPER}` and uses its results.")
            }
        },
    };
    format!("`{entry}` {description}")
}

/// For every part of the reward, yes or no: whether everything is right.
fn levels_passed(assessment: &Assessment, visible_asserts: Option<&[AssertOutcome]>) -> String {
    let cooperates = HelperUse::Called {
        body: EntryBody::Own,
        results: HelperResults::Used,
    };
    let definitions = [assessment.helper, assessment.entry];
    let rows = [
        ("Functions defined", definitions == [Definition::Returns; 2]),
        ("Syntax", visible_asserts.is_some()),
        ("Tests", visible_asserts.is_some_and(all_passed)),
        (
            "Cooperation",
            assessment.helper != Definition::Missing
                && visible_asserts.is_some_and(|asserts| passed(asserts) > 0)
                && assessment.helper_use == cooperates,
        ),
    ];
    let lines = rows.map(|(part, is_passed)| format!("- {part}: {}", yes_or_no(is_passed)));
    format!(
        "Your team's program was tested. What is right:\n{}",
        lines.join("\n")
    )
}

fn yes_or_no(answer: bool) -> &'static str {
    if answer { "yes" } else { "no" }
}

#[cfg(test)]
mod tests;
