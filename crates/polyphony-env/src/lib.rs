//! Environments to train on: two writing tasks, Python problems, and any program of one's own; and the
//! data sets to draw tasks from.
//!
//! [`Writing`] is an [`Environment`](polyphony_episode::Environment) for two agents and one turn,
//! [`CodingEnvironment`] one for two agents and as many turns as are set, whose programs run in a sandbox.
//! [`SingleAgent`] makes one agent do the work of either's team.
//! Their tasks come from [`Embedded`] sets, written for this project, or from a [`File`] of JSON lines,
//! gzipped JSON lines or Parquet.
//!
//! This crate knows nothing of models, tensors or training algorithms. It uses the network in one
//! place only: an [`Expert`] asks an outside model, where a recipe wants its edits as feedback.
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
    Assessment, Body, Coding, CodingEnvironment, CodingSettings, Definition, Draft, Ending, Expert,
    ExpertError, ExpertFailure, ExpertSettings, Feedback, HelperUse, Results, Review, Run,
    SyntaxErrorIn, VisibleAsserts, start_pool,
};
pub use dataset::{
    DataBounds, DataSetError, Embedded, EmbeddedSet, Exceeded, File, RecordLocation, Problems,
};
#[doc(hidden)]
pub use process::read_process_answers;
pub use process::{Process, check as check_process};
pub use quiet::catches_panics;
pub use single_agent::SingleAgent;
pub use writing::{Arxiv, Tldr, Writing, WritingTask};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
