//! What testing a program has found.

use std::{error::Error, fmt};

use super::error::ProcessError;

/// How many different problems end a test.
const ENOUGH_PROBLEMS: usize = 10;

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
    /// It did.
    Fine,
    /// There is something to know, which may be intended.
    Note,
    /// It did not.
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
    /// What all calls with the same problem have in common.
    gist: String,
    text: String,
}

impl Fault {
    pub(super) fn new(text: String) -> Self {
        Self {
            gist: text.clone(),
            text,
        }
    }
}

impl From<ProcessError> for Fault {
    fn from(error: ProcessError) -> Self {
        Self {
            gist: error.failure.gist(),
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
    /// The first call that shows it.
    place: String,
    calls: usize,
}

impl Problems {
    pub(super) fn add(&mut self, fault: Fault, place: String) {
        let mut known = self.0.iter_mut();
        match known.find(|problem| problem.fault.gist == fault.gist) {
            Some(problem) => problem.calls += 1,
            None => self.0.push(Problem {
                fault,
                place,
                calls: 1,
            }),
        }
    }

    /// Whether further ones would hide more than they tell.
    pub(super) fn are_enough(&self) -> bool {
        self.0.len() >= ENOUGH_PROBLEMS
    }

    pub(super) fn report(self, report: &mut Report) {
        let are_enough = self.are_enough();
        for Problem {
            fault,
            place,
            calls,
        } in self.0
        {
            let calls = match calls {
                1 => format!("1 call, {place}"),
                more => format!("{more} calls, first {place}"),
            };
            report.wrong(format!("{calls}: {}", fault.text));
        }
        if are_enough {
            report.note(format!(
                "the check ended early, after {ENOUGH_PROBLEMS} different problems"
            ));
        }
    }
}
