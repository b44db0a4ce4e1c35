//! Data sets on disk. The ending of a file's name decides its format.

use std::{
    collections::BTreeMap,
    error::Error,
    fs,
    io::{BufReader, ErrorKind},
    num::NonZeroUsize,
    path::{Path, PathBuf},
};

use flate2::bufread::MultiGzDecoder;
use polyphony_episode::{Task, TaskSource};
use serde::{Deserialize, Serialize};

use super::{bounds::DataBounds, error::DataSetError, json_lines, parquet, record::Mapping};

/// A file on disk: JSON lines (`.jsonl`), gzipped JSON lines (`.jsonl.gz`) or Parquet (`.parquet`).
/// Numbers and booleans are turned into text.
///
/// ```
/// # use polyphony_env::File;
/// let posts: File = ron::from_str(r#"(path: "posts.jsonl")"#)?;
/// assert!(posts.fields.is_empty() && posts.id.is_none());
///
/// let recipe = r#"(path: "posts.jsonl.gz", fields: {"post": "content"}, id: Some("uid"))"#;
/// let posts: File = ron::from_str(recipe)?;
/// assert_eq!(posts.fields["post"], "content");
/// # Ok::<(), ron::error::SpannedError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// The path of the file; a relative path starts at the working directory.
    pub path: PathBuf,
    /// Maps a field name of the tasks to a field name of the records. If it is empty or missing, a task has
    /// all fields of its record that can be turned into text, under the same names.
    #[serde(default)]
    pub fields: BTreeMap<String, String>,
    /// The record's field that contains the task's identifier. If it is missing, `task_id` or `id` is
    /// used; records that have neither are named after the file and their line or row, like `posts/12`.
    #[serde(default)]
    pub id: Option<String>,
    /// How many records to use, starting with the first; all by default.
    #[serde(default)]
    pub limit: Option<NonZeroUsize>,
    /// How large the file may be.
    #[serde(default)]
    pub bounds: DataBounds,
}

impl File {
    /// A file with all its fields and records, within the default bounds.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            fields: BTreeMap::new(),
            id: None,
            limit: None,
            bounds: DataBounds::default(),
        }
    }
}

impl TaskSource for File {
    fn load(&self) -> Result<Vec<Task>, Box<dyn Error + Send + Sync>> {
        let tasks = load(&Mapping {
            path: &self.path,
            fields: &self.fields,
            id: self.id.as_deref(),
            skip: 0,
            limit: self.limit,
            bounds: self.bounds,
        });
        Ok(tasks?)
    }

    fn label(&self) -> String {
        file_name(&self.path)
    }

    fn operational_keys(&self) -> &'static [&'static str] {
        &["bounds"]
    }
}

/// A file's name, for reports.
pub(super) fn file_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or(path.as_os_str());
    name.to_string_lossy().into_owned()
}

/// The format of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    JsonLines,
    GzipJsonLines,
    Parquet,
}

/// The endings of [`Format::of`], for error messages.
const KNOWN_ENDINGS: &str = "`.jsonl`, `.jsonl.gz`, `.parquet`";

impl Format {
    /// The format of a file, from the ending of its name in upper or lower case; `None` if it is unknown.
    fn of(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_string_lossy().to_lowercase();
        let endings = [
            (".jsonl", Self::JsonLines),
            (".jsonl.gz", Self::GzipJsonLines),
            (".parquet", Self::Parquet),
        ];
        endings
            .into_iter()
            .find(|(ending, _)| name.ends_with(ending))
            .map(|(_, format)| format)
    }
}

/// Loads the tasks of a file.
pub(super) fn load(mapping: &Mapping<'_>) -> Result<Vec<Task>, DataSetError> {
    let path = mapping.path;
    let Some(format) = Format::of(path) else {
        return Err(DataSetError::UnknownFormat {
            path: path.to_owned(),
            known: KNOWN_ENDINGS,
        });
    };
    let file = open(path)?;
    match format {
        Format::JsonLines => mapping.tasks(json_lines::records(BufReader::new(file), mapping)),
        Format::GzipJsonLines => {
            let unpacked = BufReader::new(MultiGzDecoder::new(BufReader::new(file)));
            let records = json_lines::records(unpacked, mapping);
            mapping.tasks(records.map(|record| record.map_err(as_broken_gzip)))
        }
        Format::Parquet => parquet::load(file, mapping),
    }
}

/// Opens a regular file. Reading anything else might never end, or wait for somebody to write. The opened
/// file is checked, and not the path, because the path may lead elsewhere a moment later.
fn open(path: &Path) -> Result<fs::File, DataSetError> {
    let failed = |source| DataSetError::Open {
        path: path.to_owned(),
        source,
    };
    let mut options = fs::File::options();
    options.read(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        // With this flag, opening a pipe does not wait for a writer.
        options.custom_flags(rustix::fs::OFlags::NONBLOCK.bits() as i32);
    }
    let file = options.open(path).map_err(failed)?;
    let kind = file.metadata().map_err(failed)?.file_type();
    if !kind.is_file() {
        let found = match kind.is_dir() {
            true => "a directory: name a file in it",
            false => "a device, a pipe or a socket: write its content into a file first",
        };
        return Err(DataSetError::NotAFile {
            path: path.to_owned(),
            found,
        });
    }
    Ok(file)
}

/// Turns errors of the decoder into [`DataSetError::BrokenGzip`]. Errors of the disk stay as they are.
fn as_broken_gzip(error: DataSetError) -> DataSetError {
    match error {
        DataSetError::Read { path, line, source }
            if matches!(
                source.kind(),
                ErrorKind::InvalidData | ErrorKind::InvalidInput | ErrorKind::UnexpectedEof
            ) =>
        {
            DataSetError::BrokenGzip { path, line, source }
        }
        error => error,
    }
}
