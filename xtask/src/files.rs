//! The files of the repository.

use std::{fs, process::Command};

use anyhow::{Context as _, Result};
use cargo_metadata::camino::{Utf8Path, Utf8PathBuf};

use crate::process;

/// The files below `folder` that have one of these extensions, in the order of their paths. Files that git
/// ignores, such as a user's data and runs, are left out.
///
/// # Errors
/// If git fails.
pub(crate) fn tracked(folder: &Utf8Path, extensions: &[&str]) -> Result<Vec<Utf8PathBuf>> {
    let mut git = Command::new("git");
    git.args([
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
    ])
    .current_dir(folder);
    let listing = String::from_utf8(process::output(&mut git)?)?;
    let mut files: Vec<Utf8PathBuf> = listing
        .split_terminator('\0')
        .map(|name| folder.join(name))
        .filter(|path| path.extension().is_some_and(|is| extensions.contains(&is)))
        .filter(|path| path.is_file())
        .collect();
    files.sort();
    Ok(files)
}

/// The text of a file.
///
/// # Errors
/// If the file cannot be read; the error names the file.
pub(crate) fn read(path: &Utf8Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("reading {path}"))
}
