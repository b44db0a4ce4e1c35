//! Where tasks come from.

mod embedded;
mod error;
mod file;
mod json_lines;
mod parquet;
mod record;

use std::{
    collections::BTreeMap,
    num::NonZeroUsize,
    path::{Path, PathBuf},
};

use polyphony_episode::Task;
use serde::{Deserialize, Serialize};

use self::record::Mapping;
pub use self::{
    embedded::EmbeddedSet,
    error::{DataSetError, Place},
};

/// A data set, as a recipe names it.
///
/// ```
/// # use polyphony_env::{EmbeddedSet, Source};
/// let recipe = r#"File(path: "posts.jsonl.gz", fields: {"post": "content"}, id: Some("uid"))"#;
/// let source: Source = ron::from_str(recipe)?;
/// assert!(matches!(source, Source::File { limit: None, .. }));
///
/// let source: Source = ron::from_str("Embedded(TldrTrain)")?;
/// assert_eq!(source, Source::Embedded(EmbeddedSet::TldrTrain));
///
/// let source: Source = ron::from_str(r#"Problems(path: "HumanEval.jsonl.gz", skip: 32)"#)?;
/// assert!(matches!(source, Source::Problems { skip: 32, limit: None, .. }));
/// # Ok::<(), ron::error::SpannedError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Source {
    /// A set that is part of the program.
    Embedded(EmbeddedSet),
    /// A file on disk: JSON lines (`.jsonl`), gzipped JSON lines (`.jsonl.gz`) or Parquet
    /// (`.parquet`). Numbers and truth values are turned into text.
    File {
        /// Where the file is; a relative path starts at the working directory.
        path: PathBuf,
        /// Field names of the records by the field names that the tasks shall have.
        fields: BTreeMap<String, String>,
        /// The record's field that identifies it. Without one, tasks are called after the file and
        /// the record's line or row, such as `posts/12`.
        id: Option<String>,
        /// How many records to use, from the first; all by default.
        limit: Option<NonZeroUsize>,
    },
    /// A file of coding problems, as HumanEval, CoopHumanEval and MBPP have them: with the fields
    /// `task_id`, which becomes the task's identifier, `prompt`, `entry_point` and `test`. The
    /// format is told by the name, as for other files.
    Problems {
        /// Where the file is; a relative path starts at the working directory.
        path: PathBuf,
        /// How many problems to leave out, from the first; none by default.
        #[serde(default)]
        skip: usize,
        /// How many of the others to use; all by default.
        limit: Option<NonZeroUsize>,
    },
}

/// The fields of a coding problem.
const PROBLEM_FIELDS: [&str; 3] = ["prompt", "entry_point", "test"];

impl Source {
    /// A short name for reports: the embedded set, or the file.
    pub fn label(&self) -> String {
        let file = |path: &Path| {
            let name = path.file_name().unwrap_or(path.as_os_str());
            name.to_string_lossy().into_owned()
        };
        match self {
            Self::Embedded(set) => format!("{set:?}"),
            Self::File { path, .. } => file(path),
            Self::Problems { path, skip: 0, .. } => file(path),
            Self::Problems { path, skip, .. } => format!("{} from {skip}", file(path)),
        }
    }

    /// Loads the data set: at least one task, no two with the same identifier.
    ///
    /// # Errors
    /// Names the file, and the line or row where there is one: a format that is not known, a file
    /// that is missing, empty or damaged, or of which nothing is left, a record without a mapped field or with something in it
    /// that has no plain text, an identifier given twice.
    pub fn load(&self) -> Result<Vec<Task>, DataSetError> {
        match self {
            Self::Embedded(set) => set.load(),
            Self::File {
                path,
                fields,
                id,
                limit,
            } => file::load(&Mapping {
                path,
                fields,
                id: id.as_deref(),
                skip: 0,
                limit: *limit,
            }),
            Self::Problems { path, skip, limit } => file::load(&Mapping {
                path,
                fields: &PROBLEM_FIELDS
                    .map(|name| (name.to_owned(), name.to_owned()))
                    .into(),
                id: Some("task_id"),
                skip: *skip,
                limit: *limit,
            }),
        }
    }
}

#[cfg(test)]
mod tests;
