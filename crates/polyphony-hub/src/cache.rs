//! The cache of models that were converted from GGUF files on PyPI: a folder with one directory per model.

use std::{env, fs, fs::File, io, path::PathBuf};

use crate::{
    error::{During as _, HubError},
    lock::lock,
    partial::{PartialDirectory, remove_partial},
};

/// The variable that sets the cache's folder.
const VARIABLE: &str = "POLYPHONY_CACHE";

/// The folder that holds converted models (`models/`) and GGUF files placed by hand (`downloads/`).
#[derive(Clone, Debug)]
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// The user's cache: `$POLYPHONY_CACHE`, `$XDG_CACHE_HOME/polyphony` or `~/.cache/polyphony`.
    ///
    /// # Errors
    /// If no environment variable gives its folder.
    pub fn open() -> Result<Self, HubError> {
        let variable = |name: &str| env::var_os(name).filter(|value| !value.is_empty());
        let root = variable(VARIABLE)
            .map(PathBuf::from)
            .or_else(|| {
                variable("XDG_CACHE_HOME").map(|path| PathBuf::from(path).join("polyphony"))
            })
            .or_else(|| env::home_dir().map(|home| home.join(".cache/polyphony")));
        root.map(Self::at).ok_or(HubError::NoFolder {
            what: "converted models",
            variable: VARIABLE,
        })
    }

    /// A cache in this folder, which need not exist yet.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The path of the converted model of this name, whether or not it exists.
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
    pub fn converted(&self) -> Result<Vec<PathBuf>, HubError> {
        let models = self.models();
        let entries = match fs::read_dir(&models) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error).during("reading", &models),
        };
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry.during("reading", &models)?;
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

    /// Waits for the lock of the cache and holds it until dropped. Removes directories that killed processes
    /// have left behind.
    pub(crate) fn lock(&self) -> Result<CacheLock, HubError> {
        let models = self.models();
        let lock = || {
            fs::create_dir_all(&models)?;
            let file = lock(&models.join(".lock"))?;
            remove_partial(&models)?;
            Ok(file)
        };
        let file = lock().map_err(|source| HubError::Folder {
            path: models.clone(),
            variable: VARIABLE,
            source,
        })?;
        Ok(CacheLock {
            models,
            _file: file,
        })
    }
}

/// The lock of the cache, which is needed to change it. The lock file stays when the lock is released.
pub(crate) struct CacheLock {
    models: PathBuf,
    _file: File,
}

impl CacheLock {
    /// A folder for work in progress. It is removed when dropped, or by the next lock.
    pub(crate) fn workspace(&self) -> io::Result<PartialDirectory> {
        PartialDirectory::create_in(&self.models)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::TryLockError;

    use super::*;

    #[test]
    fn locking_removes_only_unfinished_directories() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path());
        let unfinished = cache.lock().unwrap().workspace().unwrap();
        let unfinished_path = unfinished.path().to_owned();
        std::mem::forget(unfinished);
        let [git, model] = [".git", "small"].map(|name| cache.model(name));
        fs::create_dir(&git).unwrap();
        fs::write(git.join("HEAD"), "ref: refs/heads/main").unwrap();
        fs::create_dir(&model).unwrap();
        let lock = cache.lock().unwrap();
        assert!(!unfinished_path.exists() && model.exists());
        assert!(git.join("HEAD").exists(), "a user's own directory stays");
        let work = lock.workspace().unwrap();
        assert!(work.path().starts_with(folder.path()));
    }

    #[test]
    fn one_process_holds_the_lock_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path());
        let lock = cache.lock().unwrap();
        let second = File::open(cache.model(".lock")).unwrap();
        assert!(matches!(second.try_lock(), Err(TryLockError::WouldBlock)));
        drop(lock);
        second.try_lock().unwrap();
    }
}
