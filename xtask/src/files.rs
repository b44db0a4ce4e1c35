//! The files of the repository.

use std::{fs, process::Command};

use anyhow::{Context as _, Result};
use cargo_metadata::camino::{Utf8Path, Utf8PathBuf};

use crate::process;

/// The files that git tracks below a folder with one of these extensions, in the order of their paths. Data,
/// reports and other files of a user are thus left out.
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
/// If it cannot be read; the error names it.
pub(crate) fn read(path: &Utf8Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("reading {path}"))
}
