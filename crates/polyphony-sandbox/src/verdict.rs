//! The verdict on a program or an assert.

use serde::{Deserialize, Serialize};

/// How a run of an untrusted program ended, as observed from outside.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It did what the tests asked for.
    Passed,
    /// It did something else, or ended with an error.
    Failed,
    /// It exceeded its CPU time or its wall-clock time.
    Timeout,
    /// It asked for more memory than its limit.
    OutOfMemory,
    /// It tried something forbidden, such as opening a socket.
    Violation,
    /// The host could not run it. The program is not the cause, so this must never be scored: run the
    /// program again, or stop and report the reason.
    Infrastructure {
        /// What the host observed.
        reason: String,
    },
}

impl Verdict {
    /// Its name, the same as in serialized form.
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

    /// Whether the verdict may be turned into a score. This holds for all but [`Verdict::Infrastructure`].
    pub fn is_conclusive(&self) -> bool {
        !matches!(self, Self::Infrastructure { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_infrastructure_failure_is_not_conclusive() {
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
        for (verdict, is_conclusive, json) in rows {
            assert_eq!(verdict.is_conclusive(), is_conclusive);
            assert_eq!(serde_json::to_string(&verdict).unwrap(), json);
            assert!(json.contains(&format!("\"{}\"", verdict.name())), "{json}");
            assert_eq!(serde_json::from_str::<Verdict>(json).unwrap(), verdict);
        }
    }
}
