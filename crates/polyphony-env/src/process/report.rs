//! The results of testing a program.

use std::{error::Error, fmt};

use super::error::ProcessError;

/// A test ends early after this many different problems.
const MAX_PROBLEMS: usize = 10;

/// The results of testing a program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The result of each check, in order.
    pub findings: Vec<Finding>,
}

/// The result of one check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Whether the program passed.
    pub mark: Mark,
    /// What was observed and, if something is wrong, how to fix it.
    pub text: String,
}

/// Whether a program passed a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// The program passed.
    Fine,
    /// Something is worth knowing, but may be intended.
    Note,
    /// The program failed.
    Wrong,
}

impl Report {
    /// Whether nothing is wrong.
    pub fn is_fine(&self) -> bool {
        self.count_wrong() == 0
    }

    fn count_wrong(&self) -> usize {
        let findings = self.findings.iter();
        findings
            .filter(|finding| finding.mark == Mark::Wrong)
            .count()
    }

    pub(super) fn fine(&mut self, text: impl Into<String>) {
        self.add(Mark::Fine, text.into());
    }

    pub(super) fn note(&mut self, text: impl Into<String>) {
        self.add(Mark::Note, text.into());
    }

    pub(super) fn wrong(&mut self, text: impl Into<String>) {
        self.add(Mark::Wrong, text.into());
    }

    fn add(&mut self, mark: Mark, text: String) {
        self.findings.push(Finding { mark, text });
    }

    /// Whether a finding contains this text.
    pub(super) fn mentions(&self, text: &str) -> bool {
        let mut findings = self.findings.iter();
        findings.any(|finding| finding.text.contains(text))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for finding in &self.findings {
            let mark = match finding.mark {
                Mark::Fine => "fine ",
                Mark::Note => "note ",
                Mark::Wrong => "WRONG",
            };
            let text = finding.text.replace('\n', "\n       ");
            writeln!(formatter, "{mark}  {text}")?;
        }
        match self.count_wrong() {
            0 => writeln!(formatter, "Nothing is wrong."),
            1 => writeln!(formatter, "1 thing is wrong."),
            more => writeln!(formatter, "{more} things are wrong."),
        }
    }
}

/// What is wrong with the answer to a call.
pub(super) struct Fault {
    /// The same for all calls with the same problem.
    problem_key: String,
    text: String,
}

impl Fault {
    pub(super) fn new(text: String) -> Self {
        Self {
            problem_key: text.clone(),
            text,
        }
    }
}

impl From<ProcessError> for Fault {
    fn from(error: ProcessError) -> Self {
        Self {
            problem_key: error.failure.problem_key(),
            text: format!("it {}", with_sources(&error.failure)),
        }
    }
}

fn with_sources(error: &dyn Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", with_sources(source)),
        None => error.to_string(),
    }
}

/// The different problems of a program, each with the calls that show it.
#[derive(Default)]
pub(super) struct Problems(Vec<Problem>);

struct Problem {
    fault: Fault,
    /// The first call that shows it, in words such as `in turn 1`.
    first_call: String,
    calls: usize,
}

impl Problems {
    pub(super) fn add(&mut self, fault: Fault, call: String) {
        let mut problems = self.0.iter_mut();
        match problems.find(|problem| problem.fault.problem_key == fault.problem_key) {
            Some(problem) => problem.calls += 1,
            None => self.0.push(Problem {
                fault,
                first_call: call,
                calls: 1,
            }),
        }
    }

    /// Whether there are so many problems that more of them would not help.
    pub(super) fn is_full(&self) -> bool {
        self.0.len() >= MAX_PROBLEMS
    }

    pub(super) fn report(self, report: &mut Report) {
        let is_full = self.is_full();
        for Problem {
            fault,
            first_call,
            calls,
        } in self.0
        {
            let calls = match calls {
                1 => format!("1 call, {first_call}"),
                more => format!("{more} calls, first {first_call}"),
            };
            report.wrong(format!("{calls}: {}", fault.text));
        }
        if is_full {
            report.note(format!(
                "the check ended early, after {MAX_PROBLEMS} different problems"
            ));
        }
    }
}
