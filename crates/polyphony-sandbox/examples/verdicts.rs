//! The default limits, and which verdicts may be scored. It runs no program: the crate cannot yet.
//!
//! `cargo run -p polyphony-sandbox --example verdicts`
#![allow(clippy::print_stdout, reason = "an example shows its result")]

use polyphony_sandbox::{Limits, Verdict};

fn main() -> Result<(), serde_json::Error> {
    println!(
        "default limits: {}",
        serde_json::to_string(&Limits::default())?
    );
    let reason = "the solver could not be started".to_owned();
    for verdict in [
        Verdict::Passed,
        Verdict::Failed,
        Verdict::Timeout,
        Verdict::OutOfMemory,
        Verdict::Violation,
        Verdict::Infrastructure { reason },
    ] {
        let use_of_it = if verdict.is_about_the_program() {
            "may be scored"
        } else {
            "must not be scored"
        };
        println!("{}: {use_of_it}", serde_json::to_string(&verdict)?);
    }
    Ok(())
}
