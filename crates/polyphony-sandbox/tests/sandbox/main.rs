//! The sandbox from outside, in both tiers. Where isolation is missing, tests fail: none is skipped.
#![cfg(target_os = "linux")]

mod aftermath;
mod attacks;
mod cheats;
mod judging;
mod pools;
mod processes;
mod refusals;
