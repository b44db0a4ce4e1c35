//! Judging untrusted Python programs: what they may use, how they are confined, what came of them.
//!
//! The crate knows nothing of models, environments or learning. Start reading at [`Settings`] and
//! [`Judgement`].
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

mod counters;
mod error;
mod judgement;
mod limits;
#[cfg(target_os = "linux")]
mod linux;
#[cfg(not(target_os = "linux"))]
mod other;
mod pool;
mod program;
mod self_test;
mod settings;
mod verdict;

pub use counters::Counters;
pub use error::SandboxError;
pub use judgement::{AssertOutcome, Judgement, SyntaxError};
pub use limits::Limits;
pub use pool::Pool;
pub use program::{Program, Tests};
pub use self_test::{SelfTest, SelfTestStep};
pub use settings::{Interpreter, Isolation, Settings, Tier};
pub use verdict::Verdict;
