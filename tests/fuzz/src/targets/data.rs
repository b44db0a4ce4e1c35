//! Data sets.

use std::{fs, num::NonZeroUsize, path::Path};

use polyphony_env::{DataBounds, File, Problems};
use polyphony_episode::TaskSource;

use crate::check;

/// Small bounds, so that an input that exceeds one of them ends soon.
fn bounds() -> DataBounds {
    let bound = |value| NonZeroUsize::new(value).unwrap();
    DataBounds {
        record_mb: bound(1),
        records: bound(2000),
        file_mb: bound(8),
        set_mb: bound(4),
    }
}

/// Reads a file as texts and as coding problems.
fn load(folder: &Path, name: &str, bytes: &[u8]) {
    let path = folder.join(name);
    fs::write(&path, bytes).unwrap();
    let mut texts = File::new(&path);
    texts.bounds = bounds();
    let problems = Problems {
        path,
        skip: 1,
        limit: NonZeroUsize::new(100),
        bounds: bounds(),
    };
    let sources: [&dyn TaskSource; 2] = [&texts, &problems];
    for source in sources {
        match source.load() {
            Ok(tasks) => assert!(!tasks.is_empty() && tasks.len() <= 2000),
            Err(error) => check::message_about(&error.to_string(), name),
        }
    }
}

/// JSON lines.
pub(super) fn json_lines(folder: &Path, bytes: &[u8]) {
    load(folder, "set.jsonl", bytes);
}

/// JSON lines in gzip.
pub(super) fn gzip(folder: &Path, bytes: &[u8]) {
    load(folder, "set.jsonl.gz", bytes);
}

/// A Parquet table.
pub(super) fn parquet(folder: &Path, bytes: &[u8]) {
    load(folder, "set.parquet", bytes);
}
