//! How a run ended.

use serde::{Deserialize, Serialize};

/// How one run of an untrusted program ended, as seen from outside it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It did what was asked.
    Passed,
    /// It ran and did something else, or broke off with an error of its own.
    Failed,
    /// It was stopped for its processor time or its time on the clock.
    Timeout,
    /// It asked for more memory than its limit.
    OutOfMemory,
    /// It tried something that is forbidden, such as opening a socket.
    Violation,
    /// The host could not run it. This says nothing about the program, so it must never be scored:
    /// run it again, or stop and tell the reason.
    Infrastructure {
        /// What the host itself observed.
        reason: String,
    },
}

impl Verdict {
    /// Its name, as it is serialized too.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::Timeout => "timeout",
            Self::OutOfMemory => "out_of_memory",
            Self::Violation => "violation",
            Self::Infrastructure { .. } => "infrastructure",
        }
    }

    /// Whether the verdict may be turned into a score. All but [`Verdict::Infrastructure`] may.
    pub fn is_about_the_program(&self) -> bool {
        !matches!(self, Self::Infrastructure { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_infrastructure_failure_says_nothing_about_the_program() {
        let reason = "no memory".to_owned();
        let rows = [
            (Verdict::Passed, true, r#""passed""#),
            (Verdict::Failed, true, r#""failed""#),
            (Verdict::Timeout, true, r#""timeout""#),
            (Verdict::OutOfMemory, true, r#""out_of_memory""#),
            (Verdict::Violation, true, r#""violation""#),
            (
                Verdict::Infrastructure { reason },
                false,
                r#"{"infrastructure":{"reason":"no memory"}}"#,
            ),
        ];
        for (verdict, about_the_program, json) in rows {
            assert_eq!(verdict.is_about_the_program(), about_the_program);
            assert_eq!(serde_json::to_string(&verdict).unwrap(), json);
            assert!(json.contains(&format!("\"{}\"", verdict.name())), "{json}");
            assert_eq!(serde_json::from_str::<Verdict>(json).unwrap(), verdict);
        }
    }
}
