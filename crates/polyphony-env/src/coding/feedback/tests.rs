//! The exact text of the feedback.

use polyphony_episode::Task;
use polyphony_sandbox::Verdict;

use super::*;
use crate::coding::program::LocatedSyntaxError;

const USED: HelperUse = HelperUse::Called {
    body: EntryBody::Own,
    results: HelperResults::Used,
};

fn problem() -> Problem {
    let fields = [
        ("prompt", "def double(x):\n    '''Twice x.'''"),
        ("entry_point", "double"),
        (
            "test",
            "def check(candidate):\n    assert candidate(1) == 2",
        ),
    ];
    Problem::read(&Task::new("t/1", fields)).unwrap()
}

fn outcome(source: &str, verdict: Verdict, error: Option<&str>) -> AssertOutcome {
    AssertOutcome {
        source: source.to_owned(),
        verdict,
        error: error.map(str::to_owned),
    }
}

/// One assert passed, two failed.
fn partly_passed() -> Assessment {
    Assessment {
        helper: Definition::Returns,
        entry: Definition::Returns,
        helper_use: USED,
        run: Some(ProgramRun::Tested(vec![
            outcome("assert candidate(1) == 2", Verdict::Passed, None),
            outcome(
                "assert candidate(2) == 4",
                Verdict::Failed,
                Some("ValueError: no"),
            ),
            outcome("assert candidate(3) == 6", Verdict::Timeout, None),
        ])),
    }
}

fn with_syntax_error(line: u32, column: u32) -> Assessment {
    Assessment {
        run: Some(ProgramRun::SyntaxError(LocatedSyntaxError {
            function: "aux".to_owned(),
            line,
            column,
            message: "'(' was never closed".to_owned(),
        })),
        ..partly_passed()
    }
}

fn check(report: ReportKind, assessment: &Assessment, visible: VisibleAsserts, expected: &str) {
    assert_eq!(report.text(&problem(), assessment, visible), expected);
}

#[test]
fn level_feedback_describes_every_level() {
    let all = VisibleAsserts::All;
    check(
        ReportKind::Levels,
        &partly_passed(),
        all,
        "Your team's program was tested.
- `aux`: defined, and it returns a value.
- `double`: defined, and it returns a value.
- Syntax: correct.
- Tests: 1 of 3 passed.
  Failed, with `candidate` for `double`: assert candidate(2) == 4
  Reason: ValueError: no
  Failed, with `candidate` for `double`: assert candidate(3) == 6
  Reason: it took too long.
- Use of `aux`: `double` calls `aux` and uses its results.",
    );
    check(
        ReportKind::Levels,
        &with_syntax_error(2, 5),
        all,
        "Your team's program was tested.
- `aux`: defined, and it returns a value.
- `double`: defined, and it returns a value.
- Syntax: error in `aux`, line 2, column 5: '(' was never closed.
- Tests: not run.
- Use of `aux`: `double` calls `aux` and uses its results.",
    );
    let nothing = Assessment {
        helper: Definition::WithoutValue,
        entry: Definition::Missing,
        helper_use: HelperUse::NotCalled,
        run: None,
    };
    check(
        ReportKind::Levels,
        &nothing,
        all,
        "Your team's program was tested.
- `aux`: defined, but it returns no value.
- `double`: not found. Define it with `def`.
- Syntax: not checked.
- Tests: not run.
- Use of `aux`: there is no `double`.",
    );
}

#[test]
fn level_passed_answers_yes_or_no_for_every_level() {
    let rows = [
        (
            partly_passed(),
            VisibleAsserts::All,
            ["yes", "yes", "no", "yes"],
        ),
        (partly_passed(), VisibleAsserts::default(), ["yes"; 4]),
        (
            with_syntax_error(1, 1),
            VisibleAsserts::All,
            ["yes", "no", "no", "no"],
        ),
        (
            Assessment {
                helper_use: HelperUse::NotCalled,
                ..partly_passed()
            },
            VisibleAsserts::All,
            ["yes", "yes", "no", "no"],
        ),
        (
            Assessment {
                helper: Definition::Missing,
                ..partly_passed()
            },
            VisibleAsserts::All,
            ["no", "yes", "no", "no"],
        ),
    ];
    for (assessment, visible, [defined, syntax, tests, cooperation]) in rows {
        let expected = format!(
            "Your team's program was tested. What is right:
- Functions defined: {defined}
- Syntax: {syntax}
- Tests: {tests}
- Cooperation: {cooperation}"
        );
        check(ReportKind::LevelsPassed, &assessment, visible, &expected);
    }
}

#[test]
fn passed_and_plain_are_one_sentence() {
    let report = |passed| format!("Your team's program was tested. Tests passed: {passed}.");
    check(
        ReportKind::Passed,
        &partly_passed(),
        VisibleAsserts::All,
        &report("no"),
    );
    check(
        ReportKind::Passed,
        &partly_passed(),
        VisibleAsserts::default(),
        &report("yes"),
    );
    check(
        ReportKind::Passed,
        &with_syntax_error(1, 1),
        VisibleAsserts::All,
        &report("no"),
    );
    let plain = "Look at your code again, and find what is wrong or could be better.";
    check(
        ReportKind::Plain,
        &partly_passed(),
        VisibleAsserts::All,
        plain,
    );
}

#[test]
fn only_visible_asserts_are_reported() {
    let text = |visible| ReportKind::Levels.text(&problem(), &partly_passed(), visible);
    let first = text(VisibleAsserts::default());
    assert!(
        first.contains("1 of 1 passed") && !first.contains("assert"),
        "{first}"
    );
    let last = text(VisibleAsserts::Last(std::num::NonZeroUsize::MIN));
    assert!(
        last.contains("0 of 1 passed") && last.contains("candidate(3)"),
        "{last}"
    );
    assert!(!last.contains("candidate(2)"), "{last}");
}

#[test]
fn each_agent_is_asked_for_its_own_function() {
    let observations =
        ReportKind::Plain.observations(&problem(), &partly_passed(), VisibleAsserts::All);
    let texts: Vec<&str> = observations.iter().map(|one| &*one.text).collect();
    let expected = [
        "Look at your code again, and find what is wrong or could be better.\n\n\
         Write an improved `aux`, which `double` may call. Give its code only.",
        "Look at your code again, and find what is wrong or could be better.\n\n\
         Write an improved `double`, which may call `aux`. Give its code only.",
    ];
    assert_eq!(texts, expected);
}

#[test]
fn every_reason_and_every_helper_use_is_worded() {
    let reasons = [
        (Verdict::Failed, None, "the result is wrong."),
        (Verdict::Failed, Some("TypeError"), "TypeError"),
        (Verdict::Timeout, Some("late"), "it took too long."),
        (Verdict::OutOfMemory, None, "it took too much memory."),
        (
            Verdict::Violation,
            None,
            "it did something that is forbidden.",
        ),
    ];
    for (verdict, error, expected) in reasons {
        let text = failure("f", &outcome("assert candidate()", verdict, error));
        assert!(text.ends_with(&format!("  Reason: {expected}")), "{text}");
    }
    let called = |body, results| HelperUse::Called { body, results };
    let uses = [
        (Definition::Missing, USED, "there is no `aux`."),
        (
            Definition::Returns,
            HelperUse::NotCalled,
            "`f` does not call `aux`.",
        ),
        (
            Definition::Returns,
            USED,
            "`f` calls `aux` and uses its results.",
        ),
        (
            Definition::Returns,
            called(EntryBody::Wrapper, HelperResults::Used),
            "`f` only hands on what `aux` returns.",
        ),
        (
            Definition::WithoutValue,
            called(EntryBody::Own, HelperResults::Ignored),
            "`f` calls `aux`, but throws a result away.",
        ),
    ];
    for (helper, helper_use_, expected) in uses {
        let assessment = Assessment {
            helper,
            helper_use: helper_use_,
            ..partly_passed()
        };
        assert_eq!(helper_use("f", &assessment), expected);
    }
    for (line, column, expected) in [
        (0, 0, "error in `aux`: '(' was never closed."),
        (3, 0, "error in `aux`, line 3: '(' was never closed."),
    ] {
        assert_eq!(
            syntax(with_syntax_error(line, column).run.as_ref()),
            expected
        );
    }
}

#[test]
fn long_asserts_and_messages_are_cut() {
    let long = "é".repeat(MAX_CHARS + 1);
    let cut = format!("{}…", "é".repeat(MAX_CHARS));
    assert_eq!(shorten(&long, MAX_CHARS), cut);
    assert_eq!(shorten(&long[2..], MAX_CHARS), long[2..]);
    let text = failure("f", &outcome(&long, Verdict::Failed, None));
    assert!(text.contains(&cut) && !text.contains(&long), "{text}");
    let Some(ProgramRun::SyntaxError(mut error)) = with_syntax_error(1, 1).run else {
        panic!("a syntax error")
    };
    error.message = long.clone();
    let text = syntax(Some(&ProgramRun::SyntaxError(error)));
    assert!(text.contains(&cut) && !text.contains(&long), "{text}");
}
