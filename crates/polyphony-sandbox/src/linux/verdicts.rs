//! From what was seen to a verdict.

use super::{wire::unpack, zygote::End};
use crate::Verdict;

/// The most characters of a text that are shown.
const SHOWN: usize = 400;
/// How a judge ends that has no memory left to say so: `OUT_OF_MEMORY` in `wire.py`.
const JUDGE_OUT_OF_MEMORY: i32 = 112;

/// Why a test did not pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cause {
    pub(super) verdict: Verdict,
    pub(super) text: String,
}

impl Cause {
    pub(super) fn new(verdict: Verdict, text: impl Into<String>) -> Self {
        Self {
            verdict,
            text: shown(&text.into()),
        }
    }

    pub(super) fn failed(text: impl Into<String>) -> Self {
        Self::new(Verdict::Failed, text)
    }

    /// The cause of an exception of a known sort.
    pub(super) fn of_sort(sort: &str, text: &str) -> Option<Self> {
        let verdict = match sort {
            "plain" => Verdict::Failed,
            "memory" => Verdict::OutOfMemory,
            // Nobody claims this of himself without having tried.
            "refused" => Verdict::Violation,
            _ => return None,
        };
        Some(Self::new(verdict, text))
    }

    /// What an exception that a solver tells of makes of a test; the malformed reply itself
    /// otherwise.
    pub(super) fn raised(payload: &[u8]) -> Result<Self, Self> {
        let fields = unpack(payload).unwrap_or_default();
        let cause = match &fields[..] {
            [sort, name, _, message] if message.is_empty() => Self::of_sort(sort, name),
            [sort, name, _, message] => Self::of_sort(sort, &format!("{name}: {message}")),
            _ => None,
        };
        cause.ok_or_else(|| Self::failed("a malformed description of an exception"))
    }

    /// What the end of a solver in the middle of its work makes of a test.
    ///
    /// # Errors
    ///
    /// A reason why this is no doing of the program.
    pub(super) fn of_end(end: End, may_kill_itself: bool) -> Result<Self, String> {
        match end {
            End::Exited(code) => Ok(Self::failed(format!(
                "the program ended its interpreter with exit code {code}"
            ))),
            End::Killed => Ok(Self::failed("the program closed its connection")),
            End::Signalled(libc::SIGSYS) => Ok(Self::new(
                Verdict::Violation,
                "killed for a forbidden system call",
            )),
            End::Signalled(libc::SIGXCPU) => Ok(Self::new(
                Verdict::Timeout,
                "stopped for its processor time",
            )),
            // A confined program cannot send this to itself, and the host did not.
            End::Signalled(libc::SIGKILL) if !may_kill_itself => Err(killed_from_outside("solver")),
            End::Signalled(signal) => Ok(Self::failed(format!(
                "the interpreter ended by {}",
                signal_name(signal)
            ))),
        }
    }

    /// What the end of a judge makes of a test that has called the program.
    ///
    /// # Errors
    ///
    /// A reason why this is no doing of the program.
    pub(super) fn of_judges_end(end: End, may_be_killed: bool) -> Result<Self, String> {
        match end {
            End::Exited(JUDGE_OUT_OF_MEMORY) => Ok(Self::new(
                Verdict::OutOfMemory,
                "MemoryError: what the program returned left the tests no memory",
            )),
            End::Exited(code) => Ok(Self::failed(format!(
                "the tests ended their interpreter with exit code {code}"
            ))),
            End::Killed => Ok(Self::failed("the tests closed their connection")),
            // No confined program can do that to its judge.
            End::Signalled(libc::SIGKILL) if !may_be_killed => Err(killed_from_outside("judge")),
            End::Signalled(signal) => Ok(Self::failed(format!(
                "the interpreter of the tests ended by {}",
                signal_name(signal)
            ))),
        }
    }
}

fn killed_from_outside(whom: &str) -> String {
    format!("a {whom} was killed from outside, most likely since the system has no memory left")
}

fn signal_name(signal: i32) -> String {
    let name = match signal {
        libc::SIGABRT => "SIGABRT",
        libc::SIGALRM => "SIGALRM",
        libc::SIGBUS => "SIGBUS",
        libc::SIGFPE => "SIGFPE",
        libc::SIGILL => "SIGILL",
        libc::SIGINT => "SIGINT",
        libc::SIGKILL => "SIGKILL",
        libc::SIGSEGV => "SIGSEGV, as after very deep recursion",
        libc::SIGTERM => "SIGTERM",
        libc::SIGTRAP => "SIGTRAP",
        _ => return format!("signal {signal}"),
    };
    name.to_owned()
}

/// A text of unknown origin on one printable line, shortened.
pub(super) fn shown(text: &str) -> String {
    let mut line = String::new();
    for (count, char) in text.chars().enumerate() {
        if count == SHOWN {
            line.push_str("...");
            break;
        }
        if char.is_control() || is_invisible(char) {
            line.extend(char.escape_default());
        } else {
            line.push(char);
        }
    }
    line
}

/// Characters that turn the direction of a text, or hide in it.
fn is_invisible(char: char) -> bool {
    matches!(char, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// The gravest of the verdicts, as a program's: passed only if there are some and all are.
pub(super) fn gravest<'a>(verdicts: impl Iterator<Item = &'a Verdict>) -> Verdict {
    let gravity = |verdict: &Verdict| match verdict {
        Verdict::Passed => 0,
        Verdict::Failed => 1,
        Verdict::Timeout => 2,
        Verdict::OutOfMemory => 3,
        Verdict::Violation => 4,
        Verdict::Infrastructure { .. } => 5,
    };
    verdicts
        .max_by_key(|verdict| gravity(verdict))
        .cloned()
        .unwrap_or(Verdict::Failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linux::wire::pack;

    #[test]
    fn the_end_of_a_solver_makes_a_verdict() {
        let rows = [
            (End::Exited(0), Some(Verdict::Failed)),
            (End::Exited(7), Some(Verdict::Failed)),
            (End::Killed, Some(Verdict::Failed)),
            (End::Signalled(libc::SIGSYS), Some(Verdict::Violation)),
            (End::Signalled(libc::SIGXCPU), Some(Verdict::Timeout)),
            (End::Signalled(libc::SIGSEGV), Some(Verdict::Failed)),
            (End::Signalled(63), Some(Verdict::Failed)),
            (End::Signalled(libc::SIGKILL), None),
        ];
        for (end, expected) in rows {
            let cause = Cause::of_end(end, false).ok();
            assert_eq!(cause.map(|cause| cause.verdict), expected, "{end:?}");
        }
        let unconfined = Cause::of_end(End::Signalled(libc::SIGKILL), true);
        assert_eq!(unconfined.unwrap().verdict, Verdict::Failed);
    }

    #[test]
    fn the_end_of_a_judge_makes_a_verdict() {
        let rows = [
            (End::Exited(0), Some(Verdict::Failed)),
            (End::Exited(JUDGE_OUT_OF_MEMORY), Some(Verdict::OutOfMemory)),
            (End::Killed, Some(Verdict::Failed)),
            (End::Signalled(libc::SIGABRT), Some(Verdict::Failed)),
            (End::Signalled(libc::SIGKILL), None),
        ];
        for (end, expected) in rows {
            let cause = Cause::of_judges_end(end, false).ok();
            assert_eq!(cause.map(|cause| cause.verdict), expected, "{end:?}");
        }
        let unconfined = Cause::of_judges_end(End::Signalled(libc::SIGKILL), true);
        assert_eq!(unconfined.unwrap().verdict, Verdict::Failed);
        let in_python = format!("OUT_OF_MEMORY = {JUDGE_OUT_OF_MEMORY}\n");
        assert!(include_str!("../python/wire.py").contains(&in_python));
    }

    #[test]
    fn a_description_of_an_exception_makes_a_verdict_or_is_malformed() {
        type Expected = Option<(Verdict, &'static str)>;
        let rows: [(&[&str], Expected); 6] = [
            (
                &["plain", "Odd", "ValueError", "no"],
                Some((Verdict::Failed, "Odd: no")),
            ),
            (
                &["memory", "MemoryError", "MemoryError", ""],
                Some((Verdict::OutOfMemory, "MemoryError")),
            ),
            (
                &["refused", "PermissionError", "PermissionError", "x"],
                Some((Verdict::Violation, "PermissionError: x")),
            ),
            (&["passed", "", "", ""], None),
            (&["plain", "Odd", "ValueError"], None),
            (&[], None),
        ];
        for (fields, expected) in rows {
            let cause = Cause::raised(&pack(fields));
            let cause = cause.as_ref().ok();
            let cause = cause.map(|cause| (cause.verdict.clone(), &*cause.text));
            assert_eq!(cause, expected, "{fields:?}");
        }
    }

    #[test]
    fn what_is_shown_is_one_printable_line() {
        let long = "x".repeat(SHOWN + 1);
        let cut = format!("{}...", "x".repeat(SHOWN));
        let rows = [
            ("plain naïve text", "plain naïve text"),
            ("two\nlines\0", "two\\nlines\\u{0}"),
            ("\u{202e}back", "\\u{202e}back"),
            ("\x1b[31mred", "\\u{1b}[31mred"),
            (&long, &cut),
        ];
        for (text, expected) in rows {
            assert_eq!(shown(text), expected);
        }
    }

    #[test]
    fn the_gravest_verdict_counts_and_none_is_no_success() {
        use Verdict::{Failed, OutOfMemory, Passed, Timeout, Violation};
        let rows: [(&[Verdict], Verdict); 6] = [
            (&[], Failed),
            (&[Passed, Passed], Passed),
            (&[Passed, Failed], Failed),
            (&[Timeout, Failed], Timeout),
            (&[Timeout, OutOfMemory, Failed], OutOfMemory),
            (&[Violation, OutOfMemory, Passed], Violation),
        ];
        for (verdicts, expected) in rows {
            assert_eq!(gravest(verdicts.iter()), expected, "{verdicts:?}");
        }
    }
}
