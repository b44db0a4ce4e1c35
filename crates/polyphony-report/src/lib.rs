//! The records of training runs: writes the files of a run directory, and reads, compares and shows them.
//!
//! A training loop writes a [`RunDirectory`]: metrics, rollouts, evaluations, and files for TensorBoard.
//! Everything else reads a [`Run`]: [`compare`] puts runs side by side with intervals over tasks and seeds,
//! [`page`] makes a self-contained HTML page, and [`watch`] shows a run in the terminal while it continues.
//!
//! This crate must not know how runs are made: no models, algorithms or environments. To this crate, a recipe
//! is a text with [`settings`], each named by a path such as `updates.buffer`. [`RunInfo`] holds everything
//! else that must be known about a run. Each metric comes with its unit and meaning, which the run stores in its [`MetricCatalog`]. Metrics,
//! environments and algorithms that this crate has never heard of are therefore compared and drawn like any
//! other.
//!
//! The records of older and newer programs can be read: unknown keys are ignored, and absent ones have a
//! default. Only [`watch`] prints. The crate installs no signal or panic handler, and deletes only files
//! and folders that the program made.
//!
//! Start reading at [`RunDirectory`] for what is written and at [`Run`] for what is read.
//!
//! ```
//! use polyphony_episode::{Metric, MetricKey};
//! use polyphony_report::{
//!     EpisodeRecord, EvaluationRecord, Run, RunDirectory, RunInfo, compare, comparison_text,
//! };
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let folder = tempfile::tempdir()?;
//! let path = folder.path().join("run");
//! let info = RunInfo { held_out: "plates.jsonl".to_owned(), steps: 1, ..RunInfo::default() };
//! let mut run = RunDirectory::create(Some(&path), "(seed: 1, algorithm: Mine(samples: 4))", &info)?;
//! let loss = Metric::new(MetricKey::new("value_loss").of_role("reader"), 0.5, "", "Loss of the critic");
//! run.record(1, &[loss], [serde_json::json!({"task": "a"})])?;
//! let parts = [("spelling".to_owned(), 0.75)].into();
//! let task = "a".to_owned();
//! let episode = EpisodeRecord { task, episode_return: 0.75, parts, ..EpisodeRecord::default() };
//! let evaluation = EvaluationRecord { step: Some(1), episodes: vec![episode], ..EvaluationRecord::default() };
//! run.record_evaluation(&evaluation.summarized(["spelling"]))?;
//!
//! let run = Run::read(&path)?;
//! assert_eq!(run.catalog.find("reader/value_loss").unwrap().1.meaning, "Loss of the critic");
//! let rows = compare([&run])?;
//! assert_eq!(rows[0].mean_return.mean, 0.75);
//! println!("{}", comparison_text(&rows));
//! # Ok(())
//! # }
//! ```

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
pub use evaluation::{EpisodeRecord, EvaluationRecord, EvaluationTiming, RoleReturn, RoleSummary};
pub use files::{
    check_absent, make_new, make_numbered, remove_unfinished, replace_text, unfinished,
};
pub use info::{AlgorithmInfo, EnvironmentInfo, ProgramInfo, RanksInfo, RunInfo};
pub use metrics::{MetricCatalog, MetricInfo, flat_name};
pub use read::read_text;
pub use report::page;
pub use run::{
    Run, check_training_run, evaluations, is_agent_of_run, is_run, metrics, recipe_text,
    trained_steps,
};
pub use run_directory::{
    FileLengths, RunDirectory, check_free, save_evaluation, save_trained_steps,
};
pub use settings::{FlatSettings, entries, fields, is_below, nested_choice, ron_options, settings};
pub use statistics::{ByTask, Estimate, mean, pass_at};
pub use summary::before_and_after;
pub use table::table;
pub use visible::{excerpt, is_control, visible};
pub use watch::watch;
