//! Why a tier is not to be had.

use super::launch::{self, LaunchError};
use crate::{SandboxError, Tier};

/// Why a tier is not to be had.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    /// It cannot be set up.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// It does not do its work.
    #[error("{step}: {saw}")]
    SelfTest {
        /// What was tried.
        step: &'static str,
        /// What was seen.
        saw: String,
    },
}

impl Refusal {
    /// The error of a pool that no tier could be had for.
    pub(super) fn into_error(self, tier: Tier, refused: &[(Tier, String)]) -> SandboxError {
        let help = || {
            let helps = refused.iter().map(|(tier, _)| launch::help(*tier));
            let helps = helps.collect::<Vec<_>>().join("; or ");
            format!("what may help: {helps}; docs/sandbox.md says more")
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
            Self::SelfTest { step, saw } => SandboxError::SelfTest {
                tier,
                step: step.to_owned(),
                saw,
                help: help(),
            },
        }
    }
}
