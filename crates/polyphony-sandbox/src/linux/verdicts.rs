//! Turns observations into verdicts.

use super::{wire::unpack, zygote::ChildExit};
use crate::Verdict;

/// Texts are cut to this many characters.
const MAX_CHARS: usize = 400;
/// The exit code of a judge that has too little memory left to send a frame: `OUT_OF_MEMORY` in `wire.py`.
const JUDGE_OUT_OF_MEMORY: i32 = 112;

/// Why an assert did not pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cause {
    pub(super) verdict: Verdict,
    pub(super) text: String,
}

impl Cause {
    pub(super) fn new(verdict: Verdict, text: impl Into<String>) -> Self {
        Self {
            verdict,
            text: printable(&text.into()),
        }
    }

    pub(super) fn failed(text: impl Into<String>) -> Self {
        Self::new(Verdict::Failed, text)
    }

    /// The cause for an exception; `None` for an unknown category. Judge and solver put exceptions into the
    /// categories `plain`, `memory` (no memory was left) and `refused` (the system denied permission).
    pub(super) fn of_category(category: &str, text: &str) -> Option<Self> {
        let verdict = match category {
            "plain" => Verdict::Failed,
            "memory" => Verdict::OutOfMemory,
            // The program can forge this report of the solver, but a violation harms only the program.
            "refused" => Verdict::Violation,
            _ => return None,
        };
        Some(Self::new(verdict, text))
    }

    /// The cause for an exception that the solver reports, or, as `Err`, the cause to record if the report
    /// is malformed.
    pub(super) fn raised(payload: &[u8]) -> Result<Self, Self> {
        let fields = unpack(payload).unwrap_or_default();
        let cause = match &fields[..] {
            [category, name, _, message] if message.is_empty() => Self::of_category(category, name),
            [category, name, _, message] => {
                Self::of_category(category, &format!("{name}: {message}"))
            }
            _ => None,
        };
        cause.ok_or_else(|| Self::failed("a malformed description of an exception"))
    }

    /// The cause for a solver that ended in the middle of its work.
    ///
    /// # Errors
    ///
    /// The reason for the end, if the program is not responsible for it.
    pub(super) fn of_solver_exit(exit: ChildExit, may_kill_itself: bool) -> Result<Self, String> {
        match exit {
            ChildExit::Exited(code) => Ok(Self::failed(format!(
                "the program ended its interpreter with exit code {code}"
            ))),
            ChildExit::KilledByHost => Ok(Self::failed("the program closed its connection")),
            ChildExit::Signalled(libc::SIGSYS) => Ok(Self::new(
                Verdict::Violation,
                "killed for a forbidden system call",
            )),
            ChildExit::Signalled(libc::SIGXCPU) => {
                Ok(Self::new(Verdict::Timeout, "stopped for its CPU time"))
            }
            // A confined program cannot send this signal to itself, and the host did not send it.
            ChildExit::Signalled(libc::SIGKILL) if !may_kill_itself => {
                Err(killed_from_outside("solver"))
            }
            ChildExit::Signalled(signal) => Ok(Self::failed(format!(
                "the interpreter ended by {}",
                signal_name(signal)
            ))),
        }
    }

    /// The cause for a judge that ended after the tests had called the program.
    ///
    /// # Errors
    ///
    /// The reason for the end, if the program is not responsible for it.
    pub(super) fn of_judge_exit(exit: ChildExit, may_be_killed: bool) -> Result<Self, String> {
        match exit {
            ChildExit::Exited(JUDGE_OUT_OF_MEMORY) => Ok(Self::new(
                Verdict::OutOfMemory,
                "MemoryError: what the program returned left the tests no memory",
            )),
            ChildExit::Exited(code) => Ok(Self::failed(format!(
                "the tests ended their interpreter with exit code {code}"
            ))),
            ChildExit::KilledByHost => Ok(Self::failed("the tests closed their connection")),
            // A confined program cannot send this signal to its judge.
            ChildExit::Signalled(libc::SIGKILL) if !may_be_killed => {
                Err(killed_from_outside("judge"))
            }
            ChildExit::Signalled(signal) => Ok(Self::failed(format!(
                "the interpreter of the tests ended by {}",
                signal_name(signal)
            ))),
        }
    }
}

fn killed_from_outside(process: &str) -> String {
    format!("a {process} was killed from outside, most likely because the system is out of memory")
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

/// An untrusted text as one printable line, shortened.
pub(super) fn printable(text: &str) -> String {
    let mut line = String::new();
    for (count, char) in text.chars().enumerate() {
        if count == MAX_CHARS {
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

/// Whether a character changes the direction of a text, or is invisible.
fn is_invisible(char: char) -> bool {
    matches!(char, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// The most severe verdict, which becomes the verdict of the program. It is [`Verdict::Passed`] only if
/// there is at least one verdict and all of them are [`Verdict::Passed`].
pub(super) fn most_severe<'a>(verdicts: impl Iterator<Item = &'a Verdict>) -> Verdict {
    let severity = |verdict: &Verdict| match verdict {
        Verdict::Passed => 0,
        Verdict::Failed => 1,
        Verdict::Timeout => 2,
        Verdict::OutOfMemory => 3,
        Verdict::Violation => 4,
        Verdict::Infrastructure { .. } => 5,
    };
    verdicts
        .max_by_key(|verdict| severity(verdict))
        .cloned()
        .unwrap_or(Verdict::Failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linux::wire::pack;

    #[test]
    fn the_exit_of_a_solver_gives_a_verdict() {
        let rows = [
            (ChildExit::Exited(0), Some(Verdict::Failed)),
            (ChildExit::Exited(7), Some(Verdict::Failed)),
            (ChildExit::KilledByHost, Some(Verdict::Failed)),
            (ChildExit::Signalled(libc::SIGSYS), Some(Verdict::Violation)),
            (ChildExit::Signalled(libc::SIGXCPU), Some(Verdict::Timeout)),
            (ChildExit::Signalled(libc::SIGSEGV), Some(Verdict::Failed)),
            (ChildExit::Signalled(63), Some(Verdict::Failed)),
            (ChildExit::Signalled(libc::SIGKILL), None),
        ];
        for (exit, expected) in rows {
            let cause = Cause::of_solver_exit(exit, false).ok();
            assert_eq!(cause.map(|cause| cause.verdict), expected, "{exit:?}");
        }
        let unconfined = Cause::of_solver_exit(ChildExit::Signalled(libc::SIGKILL), true);
        assert_eq!(unconfined.unwrap().verdict, Verdict::Failed);
    }

    #[test]
    fn the_exit_of_a_judge_gives_a_verdict() {
        let rows = [
            (ChildExit::Exited(0), Some(Verdict::Failed)),
            (
                ChildExit::Exited(JUDGE_OUT_OF_MEMORY),
                Some(Verdict::OutOfMemory),
            ),
            (ChildExit::KilledByHost, Some(Verdict::Failed)),
            (ChildExit::Signalled(libc::SIGABRT), Some(Verdict::Failed)),
            (ChildExit::Signalled(libc::SIGKILL), None),
        ];
        for (exit, expected) in rows {
            let cause = Cause::of_judge_exit(exit, false).ok();
            assert_eq!(cause.map(|cause| cause.verdict), expected, "{exit:?}");
        }
        let unconfined = Cause::of_judge_exit(ChildExit::Signalled(libc::SIGKILL), true);
        assert_eq!(unconfined.unwrap().verdict, Verdict::Failed);
        let in_python = format!("OUT_OF_MEMORY = {JUDGE_OUT_OF_MEMORY}\n");
        assert!(include_str!("../python/wire.py").contains(&in_python));
    }

    #[test]
    fn a_description_of_an_exception_gives_a_verdict_or_is_malformed() {
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
    fn texts_become_one_printable_line() {
        let long = "x".repeat(MAX_CHARS + 1);
        let cut = format!("{}...", "x".repeat(MAX_CHARS));
        let rows = [
            ("plain naïve text", "plain naïve text"),
            ("two\nlines\0", "two\\nlines\\u{0}"),
            ("\u{202e}back", "\\u{202e}back"),
            ("\x1b[31mred", "\\u{1b}[31mred"),
            (&long, &cut),
        ];
        for (text, expected) in rows {
            assert_eq!(printable(text), expected);
        }
    }

    #[test]
    fn the_most_severe_verdict_counts_and_no_verdict_is_a_failure() {
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
            assert_eq!(most_severe(verdicts.iter()), expected, "{verdicts:?}");
        }
    }
}
