//! Judging untrusted Python programs: running them in confinement, and saying what came of them.
//!
//! A [`Pool`] has workers. Each is a pair of confined processes: a solver runs the program, a judge runs
//! the tests, and the caller's process carries plain data between them. So a program can lie about its
//! results, but not about the verdict. `docs/sandbox.md` says what is guaranteed and what is not.
//!
//! The crate knows nothing of models, environments or learning. Start reading at [`Pool`], then at
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
//! let judgement = pool.judge(&program, &tests)?;
//! assert_eq!(judgement.verdict, Verdict::Failed);
//! assert_eq!(judgement.passed(), 1);
//! assert_eq!(judgement.asserts[1].source, "assert candidate(9) == 18");
//! # Ok::<(), polyphony_sandbox::SandboxError>(())
//! ```

mod counters;
mod error;
mod program_result;
mod limits;
#[cfg(target_os = "linux")]
mod linux;
#[cfg(not(target_os = "linux"))]
mod other;
mod pool;
mod program;
mod self_test;
mod settings;
mod tier;
mod verdict;

pub use counters::Counters;
pub use error::SandboxError;
pub use program_result::{AssertOutcome, ProgramResult, SyntaxError};
pub use limits::Limits;
#[cfg(target_os = "linux")]
#[doc(hidden)]
pub use linux::read_frames;
pub use pool::Pool;
pub use program::{Program, Tests};
pub use self_test::{SelfTest, SelfTestStep};
pub use settings::{Interpreter, Isolation, SandboxConfig};
pub use tier::Tier;
pub use verdict::Verdict;
