//! Errors about the files of runs.

use std::{
    io,
    path::{Path, PathBuf},
};

use thiserror::Error;

/// The result of this crate's functions.
pub type Result<T, E = ReportError> = std::result::Result<T, E>;

/// Why a run cannot be written, read, compared or shown.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ReportError {
    /// A file or folder could not be used.
    #[error("{action} {}", path.display())]
    Io {
        /// The action that failed, such as "reading".
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// A line of a file is not the expected JSON object.
    #[error("reading {}, line {line}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line's number, counted from 1.
        line: usize,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// A file is not the expected JSON object.
    #[error("reading {}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// A file is not the expected RON value.
    #[error("reading {}", path.display())]
    Ron {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: Box<ron::error::SpannedError>,
    },
    /// A file of a run is not a regular file. It is not read: it may have no end or belong to somebody else.
    #[error("{} is not a regular file but {found}", path.display())]
    NotAFile {
        /// The file.
        path: PathBuf,
        /// What it is, and what to do.
        found: &'static str,
    },
    /// A file of a run is larger than the largest that is read.
    #[error("{} is larger than {}, which no run writes there: leave this run out", path.display(), bytes(*bound))]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The largest size, in bytes.
        bound: u64,
    },
    /// A line of a file is longer than the longest that is read.
    #[error(
        "{}, line {line} is longer than {}, which no run writes there: leave this run out",
        path.display(),
        bytes(*bound)
    )]
    LongLine {
        /// The file.
        path: PathBuf,
        /// The line's number, counted from 1.
        line: usize,
        /// The largest size, in bytes.
        bound: u64,
    },
    /// A path is not the directory of a run.
    #[error("{} is not the directory of a run: {reason}", path.display())]
    NoRun {
        /// The path.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// A training run is needed, but the directory is that of a baseline or of a saved evaluation.
    #[error("{} is not a training run, but a baseline or a saved evaluation", path.display())]
    NoTrainingRun {
        /// The directory.
        path: PathBuf,
    },
    /// The path of a new run directory exists already.
    #[error("the run directory {} exists already: give another one, or remove it", path.display())]
    Exists {
        /// The directory.
        path: PathBuf,
    },
    /// A file cannot be written, since its folder does not exist.
    #[error("{} cannot be written: there is no folder {}", path.display(), folder.display())]
    NoFolder {
        /// The file.
        path: PathBuf,
        /// The folder that is missing.
        folder: PathBuf,
    },
    /// Another process is writing a file of the run.
    #[error("opening {}: another process is writing it", path.display())]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// A file of the run has changed since a checkpoint was made.
    #[error("{} has changed since the checkpoint was made: {reason}", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
        /// What has changed.
        reason: String,
    },
    /// Two metrics of one step have the same name.
    #[error("step {step} has two metrics called `{name}`: give each a unique name")]
    SameName {
        /// The step.
        step: usize,
        /// The name.
        name: String,
    },
    /// A run has not been evaluated yet.
    #[error("{} has no evaluation yet: wait until its first one is done", path.display())]
    NotEvaluated {
        /// The run's directory.
        path: PathBuf,
    },
    /// None of the runs has anything to report.
    #[error("{} has neither steps nor evaluations yet: wait until the first is done", path.display())]
    Nothing {
        /// The first run's directory.
        path: PathBuf,
    },
    /// A report or a comparison was requested without runs.
    #[error("no run was given: give the directory of at least one")]
    NoRuns,
    /// Two runs have the same recipe and seed, but different results.
    #[error(
        "{} and {} have the same recipe and seed, but different results. Different devices, or programs that ran \
         out of time, can cause this: leave one of them out",
        first.display(),
        second.display()
    )]
    DifferentResults {
        /// One run.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
    /// The rewards of two runs have different parts.
    #[error(
        "{} and {} have different parts of the reward: they were made with two versions of the environment. \
         Evaluate one of them again, or leave it out",
        first.display(),
        second.display()
    )]
    DifferentParts {
        /// One run.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
    /// The page could not be filled in.
    #[error("writing the report")]
    Page(#[source] Box<minijinja::Error>),
    /// The live view needs a terminal, but there is none.
    #[error("there is no terminal to draw on")]
    NoTerminal {
        /// The directory of the run that was to be shown.
        path: PathBuf,
    },
    /// The terminal could not be used.
    #[error("{action}")]
    Terminal {
        /// The action that failed, such as "drawing".
        action: &'static str,
        /// The system's error.
        #[source]
        source: io::Error,
    },
}

/// A number of bytes for people.
fn bytes(number: u64) -> String {
    match number >> 20 {
        0 => format!("{number} bytes"),
        mib => format!("{mib} MiB"),
    }
}

impl ReportError {
    /// For `map_err`: adds what was done to a file or folder.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }
}
