//! Any program as an environment: it reads one JSON object per line from standard input and answers
//! each with one line on standard output.
//!
//! A recipe names the program with [`Process`]. The program may be written in any language. Every call
//! contains everything that the program needs. Therefore the program keeps no state of an episode, and can
//! be restarted when it dies. `docs/environments.md` describes every message of the protocol, and [`check`]
//! tests a program.
//!
//! The program comes from the user and is trusted: it is **not** confined in any way.

mod answer;
mod call;
mod conformance;
mod environment;
mod error;
mod fuzz;
#[cfg(unix)]
mod group;
#[cfg(not(unix))]
mod other;
mod report;
mod settings;
#[cfg(unix)]
mod worker;

pub use self::{
    call::{CallName, PROTOCOL},
    conformance::check,
    environment::ProcessEnvironment,
    error::{ProcessError, ProcessFailure},
    fuzz::read_process_answers,
    report::{Finding, Mark, Report},
    settings::Process,
};

#[cfg(test)]
mod tests;
