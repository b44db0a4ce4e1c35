//! The results of the sandbox's self-test, which runs before any program.

use serde::{Deserialize, Serialize};

use crate::Tier;

/// The results of the self-test at a pool's start.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SelfTest {
    /// The tier that was tested.
    pub tier: Tier,
    /// Why each stronger tier is not available here.
    pub refused: Vec<(Tier, String)>,
    /// The time to start a worker, which consists of two interpreters, in seconds.
    pub start_seconds: f64,
    /// The steps, in order.
    pub steps: Vec<SelfTestStep>,
}

/// One step of the self-test and what was observed. Every step has the expected outcome, since otherwise
/// the pool does not start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SelfTestStep {
    /// What was tried, such as "open a socket".
    pub name: String,
    /// What was observed, such as "refused: PermissionError".
    pub saw: String,
}
