//! Lists the files of the repository, without build output.

use anyhow::{Context as _, Result};
use cargo_metadata::camino::{Utf8Path, Utf8PathBuf};

/// Folders that hold no source: build output, version control, and test data that must stay as it is.
const SKIPPED: &[&str] = &["target", "fixtures", "corpus", "runs"];

/// All files below a folder with one of these extensions, in the order of their paths.
///
/// # Errors
/// If a folder cannot be read.
pub(crate) fn below(folder: &Utf8Path, extensions: &[&str]) -> Result<Vec<Utf8PathBuf>> {
    let mut found = Vec::new();
    let entries = folder
        .read_dir_utf8()
        .with_context(|| format!("reading {folder}"))?;
    for entry in entries {
        let entry = entry.with_context(|| format!("reading {folder}"))?;
        let name = entry.file_name();
        let kind = entry.file_type()?;
        if kind.is_dir() && !name.starts_with('.') && !SKIPPED.contains(&name) {
            found.extend(below(entry.path(), extensions)?);
        }
        let path = entry.path();
        if kind.is_file() && path.extension().is_some_and(|is| extensions.contains(&is)) {
            found.push(path.to_owned());
        }
    }
    found.sort();
    Ok(found)
}
