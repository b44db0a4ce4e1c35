//! How programs are judged on Linux.
//!
//! Start reading at [`engine`], then [`trial`] for the judging of one program, [`launch`] and
//! [`enter`] for the confinement of a zygote, and `src/python` for what runs inside it.

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
mod raw;
mod refusal;
mod seccomp;
mod self_check;
mod spawner;
mod stopwatch;
mod trial;
mod verdicts;
mod wire;
mod zygote;

pub(crate) use engine::Engine;
pub use fuzz::read_frames;
