//! The sandbox from outside, in both tiers. Where isolation is missing, tests fail: none is skipped.

mod judging;
mod pools;
