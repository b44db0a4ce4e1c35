//! What the sandbox shows of itself before it takes a program.

use serde::{Deserialize, Serialize};

use crate::Tier;

/// What a pool's start saw.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SelfTest {
    /// The tier that was tested.
    pub tier: Tier,
    /// Why each stronger tier is not to be had here.
    pub refused: Vec<(Tier, String)>,
    /// How long it took to start a worker, which is two interpreters, in seconds.
    pub start_seconds: f64,
    /// What was tried, in order.
    pub steps: Vec<SelfTestStep>,
}

/// One thing that was tried, and what was seen. All of them went as they must: otherwise there is
/// no pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SelfTestStep {
    /// What was tried, such as "open a socket".
    pub name: String,
    /// What was seen, such as "refused: PermissionError".
    pub saw: String,
}
