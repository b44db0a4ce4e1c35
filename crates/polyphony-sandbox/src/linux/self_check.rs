//! The self-test of a pair, which runs before any program.

use super::{
    program_run::{RunError, RunOutcome},
    refusal::Refusal,
    verdicts::most_severe,
};
use crate::{Program, SelfTestStep, Tests, Tier, Verdict};

/// A program of the self-test and its expected outcome.
struct Step {
    name: &'static str,
    source: &'static str,
    expected: Expected,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Expected {
    Passed,
    Failed,
    /// The system refuses what the program tries. A path that does not exist counts as a refusal.
    Refused,
}

/// The tests of every step.
const TESTS: &str = "def check(candidate):\n    assert candidate(2, [3]) == (6, {'three': None})\n";

const STEPS: [Step; 7] = [
    Step {
        name: "a correct program passes",
        source: "def f(a, b):\n    return a * b[0], {'three': None}\n",
        expected: Expected::Passed,
    },
    Step {
        name: "a wrong program fails",
        source: "def f(a, b):\n    return a + b[0], {'three': None}\n",
        expected: Expected::Failed,
    },
    // The attacks. If one succeeds, the program returns the right answer, so its verdict is `passed`.
    Step {
        name: "read /etc/passwd",
        source: "def f(a, b):\n    open('/etc/passwd').read()\n    return 6, {'three': None}\n",
        expected: Expected::Refused,
    },
    Step {
        name: "open a socket",
        source: "import _socket\ndef f(a, b):\n    _socket.socket()\n    return 6, {'three': None}\n",
        expected: Expected::Refused,
    },
    Step {
        name: "fork",
        source: "import os\ndef f(a, b):\n    if os.fork() == 0:\n        os._exit(0)\n    \
                 return 6, {'three': None}\n",
        expected: Expected::Refused,
    },
    Step {
        name: "write a file",
        source: "import os\ndef f(a, b):\n    os.open('/tmp/polyphony-self-test', os.O_WRONLY | \
                 os.O_CREAT)\n    return 6, {'three': None}\n",
        expected: Expected::Refused,
    },
    Step {
        name: "signal another process",
        // The parent is the zygote, which this signal would not harm.
        source: "import os\ndef f(a, b):\n    os.kill(os.getppid(), 18)\n    \
                 return 6, {'three': None}\n",
        expected: Expected::Refused,
    },
];

/// Runs all steps. Without confinement the attacks are skipped, because they would succeed.
///
/// # Errors
///
/// The first step without the expected outcome.
pub(super) fn run(
    tier: Tier,
    mut run_program: impl FnMut(&Program, &Tests) -> Result<RunOutcome, RunError>,
) -> Result<Vec<SelfTestStep>, Refusal> {
    let tests = Tests {
        setup: String::new(),
        source: TESTS.to_owned(),
    };
    let mut steps = Vec::new();
    for step in &STEPS {
        if tier == Tier::Off && step.expected == Expected::Refused {
            continue;
        }
        let program = Program {
            source: step.source.to_owned(),
            entry_point: "f".to_owned(),
        };
        let refuse = |observed: String| Refusal::SelfTest {
            step: step.name,
            observed,
        };
        let observed = match run_program(&program, &tests) {
            Ok(outcome) => step.check(&outcome).map_err(refuse)?,
            Err(RunError::Host(reason) | RunError::Tests(reason)) => return Err(refuse(reason)),
        };
        steps.push(SelfTestStep {
            name: step.name.to_owned(),
            saw: observed,
        });
    }
    Ok(steps)
}

impl Step {
    /// Describes the outcome, as `Ok` if it is the expected one, otherwise as `Err`.
    fn check(&self, outcome: &RunOutcome) -> Result<String, String> {
        let assert = &outcome.asserts.first();
        let verdict = most_severe(assert.iter().map(|assert| &assert.verdict));
        let error = assert.and_then(|assert| assert.error.as_deref());
        let error = error.unwrap_or("no error");
        match (self.expected, verdict) {
            (Expected::Passed, Verdict::Passed) => Ok("passed".to_owned()),
            (Expected::Failed, Verdict::Failed) if error == "AssertionError" => {
                Ok("failed".to_owned())
            }
            (Expected::Refused, Verdict::Violation) => Ok(format!("refused: {error}")),
            (Expected::Refused, Verdict::Failed) if error.starts_with("FileNotFoundError") => {
                Ok(format!("refused: {error}"))
            }
            (Expected::Refused, Verdict::Passed) => Err("it was not refused".to_owned()),
            _ => Err(format!("it ended differently: {error}")),
        }
    }
}
