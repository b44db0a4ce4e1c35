//! The vocabulary for running untrusted programs: what a run may use, and how it ended.
//!
//! **Nothing here runs a program yet.** The crate holds [`Limits`] and [`Verdict`] alone, so that
//! what is built on them can already name them; running programs in confinement is still to come.
//!
//! The crate knows nothing of models, environments or learning. Start reading at [`Verdict`].
//!
//! ```
//! use polyphony_sandbox::{Limits, Verdict};
//!
//! let patient = Limits { wall_secs: 10, ..Limits::default() };
//! assert_eq!(patient.cpu_secs, Limits::default().cpu_secs);
//!
//! let verdict = Verdict::Infrastructure { reason: "the host has no memory left".to_owned() };
//! assert!(!verdict.is_about_the_program());
//! ```

mod limits;
mod verdict;

pub use limits::Limits;
pub use verdict::Verdict;
