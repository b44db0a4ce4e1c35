//! What a pair must show before it gets a program.

use super::{
    refusal::Refusal,
    trial::{Fault, Findings},
    verdicts::gravest,
};
use crate::{Program, SelfTestStep, Tests, Tier, Verdict};

/// Something that is tried, and what must come of it.
struct Step {
    name: &'static str,
    source: &'static str,
    expected: Expected,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Expected {
    Passed,
    Failed,
    /// The system refuses what the program tries. Where the path of a file is not there at all, that
    /// is a refusal, too.
    Refused,
}

/// All tests ask for the same.
const TESTS: &str = "def check(candidate):\n    assert candidate(2, [3]) == (6, {'three': None})\n";

const STEPS: [Step; 7] = [
    Step {
        name: "a right program passes",
        source: "def f(a, b):\n    return a * b[0], {'three': None}\n",
        expected: Expected::Passed,
    },
    Step {
        name: "a wrong program fails",
        source: "def f(a, b):\n    return a + b[0], {'three': None}\n",
        expected: Expected::Failed,
    },
    // An attack that gets through gives the right answer, so that it would be seen to pass.
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
        // The zygote: it is there to be signalled, and would not mind.
        source: "import os\ndef f(a, b):\n    os.kill(os.getppid(), 18)\n    \
                 return 6, {'three': None}\n",
        expected: Expected::Refused,
    },
];

/// Tries everything on a pair. Without confinement the attacks are left out: they would get through.
///
/// # Errors
///
/// The first step that does not go as it must.
pub(super) fn run(
    tier: Tier,
    mut judge: impl FnMut(&Program, &Tests) -> Result<Findings, Fault>,
) -> Result<Vec<SelfTestStep>, Refusal> {
    let tests = Tests {
        setup: String::new(),
        source: TESTS.to_owned(),
    };
    let mut seen = Vec::new();
    for step in &STEPS {
        if tier == Tier::Off && step.expected == Expected::Refused {
            continue;
        }
        let program = Program {
            source: step.source.to_owned(),
            entry_point: "f".to_owned(),
        };
        let refuse = |saw: String| Refusal::SelfTest {
            step: step.name,
            saw,
        };
        let saw = match judge(&program, &tests) {
            Ok(findings) => step.look_at(&findings).map_err(refuse)?,
            Err(Fault::Host(reason) | Fault::Tests(reason)) => return Err(refuse(reason)),
        };
        seen.push(SelfTestStep {
            name: step.name.to_owned(),
            saw,
        });
    }
    Ok(seen)
}

impl Step {
    /// What was seen, or why that is not what must be.
    fn look_at(&self, findings: &Findings) -> Result<String, String> {
        let outcome = &findings.asserts.first();
        let verdict = gravest(outcome.iter().map(|outcome| &outcome.verdict));
        let error = outcome.and_then(|outcome| outcome.error.as_deref());
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
            _ => Err(format!("it ended otherwise: {error}")),
        }
    }
}
