//! Files of coding problems.

use std::{
    error::Error,
    io,
    num::NonZeroUsize,
    path::{Path, PathBuf},
};

use polyphony_episode::{Task, TaskSource};
use serde::{Deserialize, Serialize};

use super::{
    bounds::DataBounds,
    error::DataSetError,
    file::{file_name, load},
    record::Mapping,
};

/// The fields of a coding problem.
const FIELDS: [&str; 3] = ["prompt", "entry_point", "test"];

/// The path to which `cargo xtask fetch humaneval` downloads the problems.
const HUMAN_EVAL: &str = "data/HumanEval.jsonl.gz";

/// A file of coding problems in the form of HumanEval, CoopHumanEval and MBPP. The records have the
/// fields `prompt`, `entry_point`, `test` and `task_id`; the last one becomes the task's identifier. The
/// ending of the name decides the format, as for every [`File`](super::File).
///
/// ```
/// # use polyphony_env::Problems;
/// let problems: Problems = ron::from_str(r#"(path: "HumanEval.jsonl.gz", skip: 32)"#)?;
/// assert_eq!((problems.skip, problems.limit), (32, None));
/// # Ok::<(), ron::error::SpannedError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Problems {
    /// The path of the file; a relative path starts at the working directory.
    pub path: PathBuf,
    /// How many problems to skip, starting with the first; none by default.
    #[serde(default)]
    pub skip: usize,
    /// How many of the remaining problems to use; all by default.
    #[serde(default)]
    pub limit: Option<NonZeroUsize>,
    /// How large the file may be.
    #[serde(default)]
    pub bounds: DataBounds,
}

impl TaskSource for Problems {
    fn load(&self) -> Result<Vec<Task>, Box<dyn Error + Send + Sync>> {
        let fields = FIELDS.map(|name| (name.to_owned(), name.to_owned()));
        let tasks = load(&Mapping {
            path: &self.path,
            fields: &fields.into(),
            id: Some("task_id"),
            skip: self.skip,
            limit: self.limit,
            bounds: self.bounds,
        });
        Ok(tasks.map_err(with_hint)?)
    }

    fn label(&self) -> String {
        match self.skip {
            0 => file_name(&self.path),
            skip => format!("{} from {skip}", file_name(&self.path)),
        }
    }

    fn operational_keys(&self) -> &'static [&'static str] {
        &["bounds"]
    }
}

/// If HumanEval's file is missing, the error says how to get it. The project can download no other file of
/// problems.
fn with_hint(error: DataSetError) -> DataSetError {
    match error {
        DataSetError::Open { path, source }
            if path == Path::new(HUMAN_EVAL) && source.kind() == io::ErrorKind::NotFound =>
        {
            DataSetError::NotFetched { path, source }
        }
        error => error,
    }
}
