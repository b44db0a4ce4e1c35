//! Runs untrusted Python programs against tests, in confinement, and returns a verdict per assert.
//!
//! A [`Pool`] has workers. Each worker is a pair of confined processes: a *solver* runs the program, and
//! a *judge* runs the tests. The caller's process passes plain data between them. A program decides what
//! its functions return, but it cannot reach the process that decides whether an assert passes.
//! `docs/sandbox.md` explains what is guaranteed and what is not.
//!
//! This crate must not know models, environments or learning. Start reading at [`Pool`], then at
//! `linux/engine.rs`.
//!
//! ```
//! use polyphony_sandbox::{Pool, Program, SandboxConfig, Tests, Verdict};
//!
//! let pool = Pool::start(&SandboxConfig { workers: Some(1), ..SandboxConfig::default() })?;
//! let program = Program {
//!     source: "def double(x):\n    return 2 * x if x < 9 else 0\n".to_owned(),
//!     entry_point: "double".to_owned(),
//! };
//! let tests = Tests {
//!     setup: String::new(),
//!     source: "def check(candidate):\n    assert candidate(2) == 4\n    assert candidate(9) == 18\n"
//!         .to_owned(),
//! };
//! let result = pool.run(&program, &tests)?;
//! assert_eq!(result.verdict, Verdict::Failed);
//! assert_eq!(result.passed(), 1);
//! assert_eq!(result.asserts[1].source, "assert candidate(9) == 18");
//! # Ok::<(), polyphony_sandbox::SandboxError>(())
//! ```

mod counters;
mod error;
mod limits;
#[cfg(target_os = "linux")]
mod linux;
#[cfg(not(target_os = "linux"))]
mod other;
mod pool;
mod program;
mod program_result;
mod self_test;
mod settings;
mod tier;
mod verdict;

pub use counters::Counters;
pub use error::SandboxError;
pub use limits::Limits;
#[cfg(target_os = "linux")]
#[doc(hidden)]
pub use linux::read_frames;
pub use pool::Pool;
pub use program::{Program, Tests};
pub use program_result::{AssertOutcome, ProgramResult, SyntaxError};
pub use self_test::{SelfTest, SelfTestStep};
pub use settings::{Interpreter, Isolation, SandboxConfig};
pub use tier::Tier;
pub use verdict::Verdict;
