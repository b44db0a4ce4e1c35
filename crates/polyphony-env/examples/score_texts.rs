//! Scores the texts of two writing agents and shows each part of the reward.
//!
//! `cargo run -p polyphony-env --example score_texts [FIRST SECOND]`
#![allow(clippy::print_stdout, reason = "an example shows its result")]

use polyphony_env::Writing;

const FIRST: &str =
    "My neighbour mowed my lawn for a month without being asked and now wants $120.";
const SECOND: &str = "While I was away for work, the man next door kept cutting my grass, which I \
    took for kindness. However, he has just pushed a neatly typed invoice for $120 under my door, \
    although we never talked about money. Therefore I wonder whether paying him would buy peace \
    or merely start a subscription.";

fn main() {
    let mut arguments = std::env::args().skip(1);
    let first = arguments.next().unwrap_or_else(|| FIRST.to_owned());
    let second = arguments.next().unwrap_or_else(|| SECOND.to_owned());
    for (name, environment) in [("TLDR", Writing::tldr()), ("arXiv", Writing::arxiv())] {
        let reward = environment.score(&first, &second);
        println!("{name}: {:.3} of {}", reward.total(), Writing::MAX_REWARD);
        for (part, value) in reward.parts() {
            println!("  {part:<12} {value:.3}");
        }
    }
}
