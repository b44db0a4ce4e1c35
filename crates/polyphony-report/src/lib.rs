//! The records of training runs: the files of a run directory, and everything that is read from them.
//!
//! A training loop writes a [`RunDirectory`]: metrics, what was sampled, evaluations, and files for TensorBoard.
//! Everything else reads a [`Run`]: [`compare`] puts runs side by side with intervals over tasks and seeds,
//! [`page`] makes an HTML page that needs nothing else, and [`watch`] shows a run in the terminal while it
//! continues.
//!
//! This crate must not know how runs are made: no models, algorithms or environments. A recipe is text with
//! [`settings`] at paths; the rest that must be known about a run is in its [`RunInfo`]; a metric brings its unit
//! and meaning, which the run keeps in its [`Catalog`]. So metrics, environments and algorithms that this crate
//! has never heard of are compared and drawn like any other.
//!
//! Older and newer programs can read the records: unknown keys are ignored, and absent ones have a default.
//! Nothing is printed, no handler is installed, and nothing is removed that the program did not make.
//!
//! ```
//! use polyphony_episode::{Metric, MetricKey};
//! use polyphony_report::{EvaluationRecord, EpisodeRecord, Run, RunDirectory, RunInfo, compare, comparison_text};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let folder = tempfile::tempdir()?;
//! let path = folder.path().join("run");
//! let info = RunInfo { held_out: "plates.jsonl".to_owned(), steps: 1, ..RunInfo::default() };
//! let mut run = RunDirectory::create(Some(&path), "(seed: 1, algorithm: Mine(samples: 4))", &info)?;
//! let loss = Metric::new(MetricKey::new("value_loss").of_role("reader"), 0.5, "", "Loss of the critic");
//! run.record(1, &[loss], [serde_json::json!({"task": "a"})])?;
//! let parts = [("spelling".to_owned(), 0.75)].into();
//! let played = EpisodeRecord { task: "a".to_owned(), value: 0.75, parts, ..EpisodeRecord::default() };
//! let evaluation = EvaluationRecord { step: Some(1), episodes: vec![played], ..EvaluationRecord::default() };
//! run.record_evaluation(&evaluation.summarized(["spelling"]))?;
//!
//! let run = Run::read(&path)?;
//! assert_eq!(run.catalog.find("reader/value_loss").unwrap().1.meaning, "Loss of the critic");
//! let rows = compare([&run])?;
//! assert_eq!(rows[0].returns.mean, 0.75);
//! println!("{}", comparison_text(&rows));
//! # Ok(())
//! # }
//! ```
//!
//! Start reading at [`RunDirectory`] for what is written and at [`Run`] for what is read.

mod comparison;
mod duration;
mod error;
mod evaluation;
mod events;
mod files;
#[cfg(test)]
mod fixture;
mod info;
mod layout;
mod legacy;
mod metrics;
mod read;
mod records;
mod report;
mod run;
mod run_directory;
mod series;
mod settings;
mod statistics;
mod summary;
mod table;
mod visible;
mod watch;

pub use comparison::{Row, compare, comparison_text};
pub use duration::duration_text;
pub use error::{ReportError, Result};
pub use evaluation::{RoleReturn, EvaluationRecord, EpisodeRecord, RoleSummary, EvaluationTiming};
pub use files::{check_new, make_new, make_numbered, remove_unfinished, replace_text, unfinished};
pub use info::{AlgorithmInfo, EnvironmentInfo, ProgramInfo, RunInfo};
pub use metrics::{Catalog, Explanation, flat_name};
pub use report::page;
pub use run::{
    Run, check_training_run, evaluations, is_agent_of_run, is_run, metrics, recipe_text,
    trained_steps,
};
pub use run_directory::{Lengths, RunDirectory, check_free, save_evaluation, save_trained_steps};
pub use settings::{FlatSettings, entries, fields, held, is_below, reader, settings};
pub use statistics::{ByTask, Estimate, mean, pass_at};
pub use summary::before_and_after;
pub use table::table;
pub use visible::{excerpt, is_control, visible};
pub use watch::watch;
