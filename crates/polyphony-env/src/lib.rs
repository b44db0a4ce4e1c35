//! The environments that ship with Polyphony, and the data sets that their tasks come from.
//!
//! - [`Writing`]: two agents, one turn, two texts that are scored as a pair.
//! - [`CodingEnvironment`]: two agents, a configurable number of turns; the program runs in a sandbox.
//! - [`process::ProcessEnvironment`]: any program of yours, in any language.
//! - [`SingleAgent`]: wraps any environment, so that a single agent does the work of the team.
//!
//! Tasks come from [`Embedded`] sets, which were written for this project, or from a [`File`] of JSON
//! lines, gzipped JSON lines or Parquet. [`Problems`] is such a file with coding problems.
//!
//! This crate must not know models, tensors or training algorithms. It uses the network in one place
//! only: an [`Expert`] asks an outside model for edits, if a recipe wants them as feedback.
//! Start reading at [`Writing`], then [`CodingEnvironment`] and [`File`].
//!
//! ```
//! use polyphony_env::{Embedded, EmbeddedSet, Writing};
//! use polyphony_episode::{Environment, JointAction, Response, TaskSource};
//!
//! let tasks = Embedded(EmbeddedSet::TldrTrain).load()?;
//! let tldr = Writing::tldr();
//! let observations = tldr.start(&tasks[0])?;
//! assert!(observations[0].text.contains(&tasks[0].fields["post"]));
//!
//! let concise = "My neighbour mowed my lawn unasked and now bills me.";
//! let detailed = "After a month of mowing the grass next door without being asked, a neighbour \
//!                 sent an invoice; however, nobody had ever agreed on any price.";
//! let action = JointAction::new([concise, detailed].map(Response::from_text).into());
//! let reward = tldr.step(&tasks[0], &[], &action)?.reward;
//! assert_eq!(reward.part("structure"), Some(0.5));
//! assert!(reward.total() > 2.0 && reward.total() <= Writing::MAX_REWARD);
//! # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
//! ```

mod coding;
mod dataset;
pub mod process;
mod quiet;
mod single_agent;
mod writing;

pub use coding::{
    Assessment, Coding, CodingEnvironment, CodingSettings, Definition, Draft, Ending, EntryBody,
    Expert, ExpertError, ExpertFailure, ExpertSettings, Feedback, HelperResults, HelperUse,
    LocatedSyntaxError, ProgramRun, Review, VisibleAsserts, start_pool,
};
pub use dataset::{
    BoundExceeded, DataBounds, DataSetError, Embedded, EmbeddedSet, File, Problems, RecordLocation,
};
#[doc(hidden)]
pub use process::read_process_answers;
pub use process::{Process, check as check_process};
pub use quiet::is_catching_panic;
pub use single_agent::SingleAgent;
pub use writing::{Arxiv, Tldr, Writing, WritingTask};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
