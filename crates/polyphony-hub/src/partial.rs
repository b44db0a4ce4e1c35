//! Directories for work in progress. Those that killed processes have left behind are removed later; a marker
//! distinguishes them from a user's directories.

use std::{fs, io, path::Path};

use tempfile::TempDir;

/// The prefix of these directories.
const PREFIX: &str = ".polyphony-unfinished-";

/// The file that marks each of them.
const MARKER: &str = ".polyphony-unfinished";

/// A directory for work in progress, removed when dropped.
///
/// A process that is killed leaves it behind. [`remove_partial`] then recognizes it by its name and by a
/// marker file in it, so that nothing else is ever removed.
#[derive(Debug)]
pub struct PartialDirectory(TempDir);

impl PartialDirectory {
    /// A new directory in this folder.
    ///
    /// # Errors
    /// If the folder cannot be written to.
    pub fn create_in(folder: &Path) -> io::Result<Self> {
        let directory = tempfile::Builder::new().prefix(PREFIX).tempdir_in(folder)?;
        fs::write(
            directory.path().join(MARKER),
            "Made by polyphony for work in progress. It may be removed when no polyphony runs.\n",
        )?;
        Ok(Self(directory))
    }

    /// The path of the directory.
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

/// Removes the directories that [`PartialDirectory`] made in this folder and that killed processes have left
/// behind. The caller must lock the folder against other processes.
///
/// # Errors
/// If the folder cannot be read, or such a directory cannot be removed.
pub fn remove_partial(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let has_prefix = entry.file_name().to_string_lossy().starts_with(PREFIX);
        if !has_prefix || !entry.file_type()?.is_dir() {
            continue;
        }
        if entry.path().join(MARKER).is_file() {
            fs::remove_dir_all(entry.path())?;
        } else if fs::read_dir(entry.path())?.next().is_none() {
            // Killed before the marker was written.
            fs::remove_dir(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_directories_of_the_program_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let make = |name: &str, file: Option<&str>| {
            let path = folder.path().join(name);
            fs::create_dir(&path).unwrap();
            if let Some(file) = file {
                fs::write(path.join(file), "").unwrap();
            }
            path
        };
        let git = make(".git", Some("HEAD"));
        let marked = make(".cache", Some(MARKER));
        let named = make(".polyphony-unfinished-notes", Some("notes.txt"));
        let file = folder.path().join(".polyphony-unfinished-file");
        fs::write(&file, "").unwrap();
        let empty = make(".polyphony-unfinished-empty", None);
        let abandoned = PartialDirectory::create_in(folder.path()).unwrap();
        fs::write(abandoned.path().join("half"), "h").unwrap();
        let abandoned = abandoned.0.keep();

        remove_partial(folder.path()).unwrap();
        for foreign in [&git, &marked, &named, &file] {
            assert!(foreign.exists(), "{}", foreign.display());
        }
        for partial in [&empty, &abandoned] {
            assert!(!partial.exists(), "{}", partial.display());
        }
    }

    #[test]
    #[cfg(unix)]
    fn a_link_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let target = tempfile::tempdir().unwrap();
        fs::write(target.path().join(MARKER), "").unwrap();
        let link = folder.path().join(".polyphony-unfinished-link");
        std::os::unix::fs::symlink(target.path(), &link).unwrap();
        remove_partial(folder.path()).unwrap();
        assert!(target.path().join(MARKER).exists());
    }
}
