//! Files and folders that are either absent or complete.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, ErrorKind, Write as _},
    path::{Path, PathBuf},
};

use crate::error::{ReportError, Result};

/// The prefix of a file or folder that the program is still writing or about to remove. Models are written
/// under such names too.
pub(crate) const UNFINISHED: &str = ".polyphony-unfinished-";

/// The temporary path beside `path` where a folder is written before it is renamed to `path`.
pub fn unfinished(path: &Path) -> PathBuf {
    let mut name = OsString::from(UNFINISHED);
    name.push(path.file_name().unwrap_or_default());
    path.with_file_name(name)
}

/// Removes the folders that the program was writing when it was killed: those with names from [`unfinished`].
/// Everything else stays.
///
/// # Errors
/// If the folder cannot be read, or an unfinished folder in it cannot be removed. A missing folder is not an
/// error.
pub fn remove_unfinished(folder: &Path) -> Result<()> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(ReportError::io("reading", folder))?,
    };
    for entry in entries {
        let entry = entry.map_err(ReportError::io("reading", folder))?;
        let path = entry.path();
        // A link is not followed.
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_folder && entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
            fs::remove_dir_all(&path).map_err(ReportError::io("removing", &path))?;
        }
    }
    Ok(())
}

/// Writes a text file atomically; an existing one is replaced.
///
/// # Errors
/// If its folder does not exist, or the disk is full or gone.
pub fn replace_text(path: &Path, text: &str) -> Result<()> {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    // Checked here, because the error of a temporary file would not name `path`.
    if !folder.is_dir() {
        return Err(ReportError::NoFolder {
            path: path.to_owned(),
            folder: folder.to_owned(),
        });
    }
    let write = || {
        let mut file = tempfile::Builder::new()
            .prefix(UNFINISHED)
            .tempfile_in(folder)?;
        file.write_all(text.as_bytes())?;
        make_readable(file.as_file())?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|error| error.error).map(drop)
    };
    write().map_err(ReportError::io("writing", path))
}

/// Gives a temporary file the usual permissions; it is private when created.
fn make_readable(file: &File) -> io::Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        file.set_permissions(fs::Permissions::from_mode(0o644))?;
    }
    #[cfg(not(unix))]
    let _ = file;
    Ok(())
}

/// Refuses the path of a run directory that exists. [`make_new`] does so too, but is called only after
/// long work.
///
/// # Errors
/// If it exists already.
pub fn check_absent(path: &Path) -> Result<()> {
    match path.exists() {
        false => Ok(()),
        true => Err(ReportError::Exists {
            path: path.to_owned(),
        }),
    }
}

/// Makes a run directory that must not exist yet.
///
/// # Errors
/// If it exists already or cannot be made.
pub fn make_new(path: &Path) -> Result<PathBuf> {
    match make(path)? {
        true => Ok(path.to_owned()),
        false => Err(ReportError::Exists {
            path: path.to_owned(),
        }),
    }
}

/// Makes a new directory in a folder: the first of `name-1`, `name-2`, … that does not exist yet.
///
/// # Errors
/// If it cannot be made.
pub fn make_numbered(folder: &Path, name: &str) -> Result<PathBuf> {
    let mut number = 1;
    loop {
        let path = folder.join(format!("{name}-{number}"));
        if make(&path)? {
            return Ok(path);
        }
        number += 1;
    }
}

/// Makes a directory. Returns `false` if it exists, even if another run made it a moment ago.
pub(crate) fn make(path: &Path) -> Result<bool> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(ReportError::io("making", parent))?;
    }
    match fs::create_dir(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(ReportError::io("making the run directory", path)(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_program_made_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let half = unfinished(&path("step-000004"));
        for made in [&path(".git"), &path(".new-writer"), &path("writer"), &half] {
            fs::create_dir(made).unwrap();
            fs::write(made.join("file"), "text").unwrap();
        }
        fs::write(unfinished(&path("file")), "text").unwrap();
        remove_unfinished(folder.path()).unwrap();
        assert!(!half.exists());
        for user_file in [".git/file", ".new-writer/file", "writer/file"] {
            assert!(path(user_file).exists(), "{user_file}");
        }
        assert!(unfinished(&path("file")).exists());
        remove_unfinished(&path("nowhere")).unwrap();
    }

    #[cfg(unix)]
    #[test]
    fn a_link_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let target = tempfile::tempdir().unwrap();
        fs::write(target.path().join("file"), "text").unwrap();
        let link = unfinished(&folder.path().join("x"));
        std::os::unix::fs::symlink(target.path(), &link).unwrap();
        remove_unfinished(folder.path()).unwrap();
        assert!(target.path().join("file").exists());
    }

    #[test]
    fn numbers_are_given_in_turn_and_a_name_once() {
        let folder = tempfile::tempdir().unwrap();
        let runs = folder.path().join("runs");
        for number in 1..4 {
            let path = make_numbered(&runs, "tldr").unwrap();
            assert_eq!(path, runs.join(format!("tldr-{number}")));
        }
        let existing = runs.join("tldr-2");
        for outcome in [make_new(&existing).map(drop), check_absent(&existing)] {
            let message = outcome.unwrap_err().to_string();
            assert!(
                message.contains("tldr-2 exists already: give another"),
                "{message}"
            );
        }
        make_new(&runs.join("new")).unwrap();
    }

    #[test]
    fn a_text_replaces_another_and_a_missing_folder_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("page.html");
        for text in ["one", "two"] {
            replace_text(&path, text).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        let missing = folder.path().join("no/page.html");
        let message = replace_text(&missing, "").unwrap_err().to_string();
        assert!(
            message.contains("page.html cannot be written: there is no folder"),
            "{message}"
        );
    }
}
