//! Data sets on disk, told apart by the ending of their names.

use std::{
    fs::File,
    io::{BufReader, ErrorKind},
    path::Path,
};

use flate2::bufread::MultiGzDecoder;
use polyphony_episode::Task;

use super::{error::DataSetError, json_lines, parquet, record::Mapping};

/// What a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    JsonLines,
    GzipJsonLines,
    Parquet,
}

/// The endings of [`Format::of`], for people.
const KNOWN_ENDINGS: &str = "`.jsonl`, `.jsonl.gz`, `.parquet`";

impl Format {
    /// The format that a file's name promises, in upper or lower case.
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
    if mapping.fields.is_empty() {
        return Err(DataSetError::NoFields {
            path: path.to_owned(),
        });
    }
    let file = File::open(path).map_err(|source| DataSetError::Open {
        path: path.to_owned(),
        source,
    })?;
    match format {
        Format::JsonLines => mapping.tasks(json_lines::records(BufReader::new(file), path)),
        Format::GzipJsonLines => {
            let unpacked = BufReader::new(MultiGzDecoder::new(BufReader::new(file)));
            let records = json_lines::records(unpacked, path);
            mapping.tasks(records.map(|record| record.map_err(as_broken_gzip)))
        }
        Format::Parquet => parquet::load(file, mapping),
    }
}

/// A failure of the decoder, as opposed to one of the disk, is the file's own fault.
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
        other => other,
    }
}
