//! Polyphony with your own environment and algorithm. Every command works with them, for example:
//!
//! `cargo run -- train recipes/plates.ron --set environment.digits=4`

mod environment;
mod rank;

use std::process::ExitCode;

use polyphony::Program;

use crate::{environment::NumberPlate, rank::RankBased};

fn main() -> ExitCode {
    Program::standard()
        .environment::<NumberPlate>("NumberPlate")
        .algorithm::<RankBased>("RankBased")
        .recipe("plates", include_str!("../recipes/plates.ron"))
        .main()
}
