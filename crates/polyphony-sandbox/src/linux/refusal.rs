//! Why a tier is not available.

use super::launch::{self, LaunchError};
use crate::{SandboxError, Tier};

/// Why a tier is not available.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    /// It cannot be set up.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// It does not pass the self-test.
    #[error("{step}: {observed}")]
    SelfTest {
        /// What was tried.
        step: &'static str,
        /// What was observed.
        observed: String,
    },
}

impl Refusal {
    /// The error of a pool for which no tier is available.
    pub(super) fn into_error(self, tier: Tier, refused: &[(Tier, String)]) -> SandboxError {
        let help = || {
            let hints = refused.iter().map(|(tier, _)| launch::help(*tier));
            let hints = hints.collect::<Vec<_>>().join("; or ");
            format!("what may help: {hints}; see docs/sandbox.md")
        };
        match self {
            Self::Launch(_) => {
                let reasons = refused
                    .iter()
                    .map(|(tier, why)| format!("{tier} tier: {why}"));
                SandboxError::Isolation {
                    reason: reasons.collect::<Vec<_>>().join("; "),
                    help: help(),
                }
            }
            Self::SelfTest { step, observed } => SandboxError::SelfTest {
                tier,
                step: step.to_owned(),
                observed,
                help: help(),
            },
        }
    }
}
