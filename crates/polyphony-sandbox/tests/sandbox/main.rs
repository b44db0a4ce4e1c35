//! The sandbox from outside, in both tiers. Where isolation is missing, tests fail: none is skipped.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "functions that tests share, and processes that tell a test what they see"
)]

mod aftermath;
mod battery;
mod growth;
mod judging;
mod pools;
mod processes;
mod refusals;
mod surroundings;
