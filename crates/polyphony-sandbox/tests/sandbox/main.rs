//! Tests of the sandbox from outside, in both tiers. If isolation is missing, tests fail instead of being
//! skipped.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "functions that tests share, and helper processes that report to a test"
)]

mod aftermath;
mod battery;
mod growth;
mod judging;
mod pools;
mod processes;
mod refusals;
mod surroundings;
