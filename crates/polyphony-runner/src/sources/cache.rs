//! The cache: one folder with a directory for each converted model.

use std::{
    env, fs,
    fs::File,
    io,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use super::lock::lock;

/// The folder that holds converted models (`models/`) and files placed by hand (`downloads/`).
#[derive(Clone, Debug)]
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// The user's cache: `$POLYPHONY_CACHE`, `$XDG_CACHE_HOME/polyphony` or `~/.cache/polyphony`.
    ///
    /// # Errors
    /// If no environment variable says where it is.
    pub fn open() -> Result<Self> {
        let variable = |name: &str| env::var_os(name).filter(|value| !value.is_empty());
        let root = variable("POLYPHONY_CACHE")
            .map(PathBuf::from)
            .or_else(|| {
                variable("XDG_CACHE_HOME").map(|path| PathBuf::from(path).join("polyphony"))
            })
            .or_else(|| env::home_dir().map(|home| home.join(".cache/polyphony")));
        let root = root.context(
            "there is no place for the cache: set POLYPHONY_CACHE to a folder for models",
        )?;
        Ok(Self::at(root))
    }

    /// A cache in this folder, which need not exist yet.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Where the converted model of this name is, or will be.
    pub fn model(&self, name: &str) -> PathBuf {
        self.models().join(name)
    }

    /// The folder for files that were downloaded by hand.
    pub fn downloads(&self) -> PathBuf {
        self.root.join("downloads")
    }

    /// The directories of all converted models, in alphabetical order.
    ///
    /// # Errors
    /// If the cache cannot be read.
    pub fn converted(&self) -> Result<Vec<PathBuf>> {
        let models = self.models();
        let context = || format!("reading {}", models.display());
        let entries = match fs::read_dir(&models) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error).with_context(context),
        };
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry.with_context(context)?;
            let hidden = entry.file_name().to_string_lossy().starts_with('.');
            if !hidden && entry.path().is_dir() {
                found.push(entry.path());
            }
        }
        found.sort();
        Ok(found)
    }

    fn models(&self) -> PathBuf {
        self.root.join("models")
    }

    /// Waits until no other process obtains a model, and keeps others from it until dropped. What
    /// processes that were killed have left behind is removed.
    pub(super) fn lock(&self) -> Result<CacheLock> {
        let models = self.models();
        let context = || {
            let path = models.display();
            format!("{path} cannot hold models: set POLYPHONY_CACHE to a folder that can")
        };
        fs::create_dir_all(&models).with_context(context)?;
        let file = lock(&models.join(".lock")).with_context(context)?;
        remove_partial(&models).with_context(context)?;
        Ok(CacheLock {
            models,
            _file: file,
        })
    }
}

/// The right to change the cache. The lock file itself stays.
pub(super) struct CacheLock {
    models: PathBuf,
    _file: File,
}

impl CacheLock {
    /// A folder for work in progress. It is removed when dropped, or by the next one who locks.
    pub(super) fn workspace(&self) -> io::Result<tempfile::TempDir> {
        tempfile::Builder::new()
            .prefix(".partial-")
            .tempdir_in(&self.models)
    }
}

/// Removes folders of work in progress. Only who holds the lock may do so.
fn remove_partial(models: &Path) -> io::Result<()> {
    for entry in fs::read_dir(models)? {
        let entry = entry?;
        let name = entry.file_name();
        if name.to_string_lossy().starts_with('.') && entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::TryLockError;

    use super::*;

    #[test]
    fn locking_removes_what_was_left_half_done() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path());
        drop(cache.lock().unwrap());
        let [partial, model] = [".partial-1", "small"].map(|name| cache.model(name));
        fs::create_dir(&partial).unwrap();
        fs::create_dir(&model).unwrap();
        let lock = cache.lock().unwrap();
        assert!(!partial.exists() && model.exists());
        let work = lock.workspace().unwrap();
        assert!(work.path().starts_with(folder.path()));
    }

    #[test]
    fn one_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path());
        let held = cache.lock().unwrap();
        let again = File::open(cache.model(".lock")).unwrap();
        assert!(matches!(again.try_lock(), Err(TryLockError::WouldBlock)));
        drop(held);
        again.try_lock().unwrap();
    }
}
