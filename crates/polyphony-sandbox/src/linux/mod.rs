//! The sandbox on Linux.
//!
//! Start reading at [`engine`]. Then read [`program_run`] for the run of one program, [`launch`] and
//! [`enter`] for the confinement of a zygote, and `src/python` for the code that runs inside it.

mod asserts;
mod engine;
mod enter;
mod fuzz;
mod interpreter;
mod landlock;
mod launch;
mod layers;
#[cfg(test)]
mod layers_tests;
mod layout;
mod plan;
mod program_run;
mod raw;
mod refusal;
mod seccomp;
mod self_check;
mod spawner;
mod stopwatch;
mod verdicts;
mod wire;
mod zygote;

pub(crate) use engine::Engine;
pub use fuzz::read_frames;
