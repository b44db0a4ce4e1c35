//! The records of a run: rank 0 writes them, and all ranks know whether that succeeded.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, ensure};
use polyphony_marl::RankGroup;
use polyphony_report::{RunDirectory, RunInfo};

use crate::ranks::{agree, from_first, on_first};

/// The directory of a run, as a rank sees it.
pub(crate) struct Records {
    path: PathBuf,
    /// Only on rank 0.
    directory: Option<RunDirectory>,
    world: RankGroup,
}

impl Records {
    /// Makes a new run directory on rank 0. All ranks must see it.
    ///
    /// # Errors
    /// As [`RunDirectory::create`], and if another rank does not see the directory.
    pub(crate) fn create(
        world: RankGroup,
        path: Option<&Path>,
        recipe: &str,
        info: &RunInfo,
    ) -> Result<Self> {
        let create = || Ok(RunDirectory::create(path, recipe, info)?);
        let directory = on_first(&world, create)?;
        let made = directory.as_ref().map(|run| run.path().to_owned());
        // If another rank does not see the directory, it holds nothing of value.
        Self::open(world, directory).inspect_err(|_| {
            if let Some(made) = made {
                let _ = std::fs::remove_dir_all(made);
            }
        })
    }

    /// The run whose directory rank 0 has opened.
    ///
    /// # Errors
    /// If another rank does not see the directory.
    pub(crate) fn open(world: RankGroup, directory: Option<RunDirectory>) -> Result<Self> {
        let path = directory.as_ref().map_or(Path::new(""), RunDirectory::path);
        let path = shared_path(&world, path)?;
        let is_seen = || {
            ensure!(
                polyphony_report::is_run(&path),
                "rank {} does not see the run directory {} that rank 0 has made: put it on a file system that \
                 all ranks share, with `--run-dir`",
                world.rank(),
                path.display()
            );
            Ok(())
        };
        agree(&world, is_seen())?;
        Ok(Self {
            path,
            directory,
            world,
        })
    }

    /// The path of the run's directory.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes on rank 0. Returns what was written there; `None` on the other ranks.
    ///
    /// # Errors
    /// If writing fails.
    pub(crate) fn on_first<T>(
        &mut self,
        write: impl FnOnce(&mut RunDirectory) -> Result<T>,
    ) -> Result<Option<T>> {
        let written = self.directory.as_mut().map(write).transpose();
        agree(&self.world, written)
    }
}

/// A path of rank 0, such that all ranks can use it, although they may have been started in different directories.
///
/// # Errors
/// If it cannot be made absolute, or is not Unicode.
pub(crate) fn shared_path(world: &RankGroup, path: &Path) -> Result<PathBuf> {
    if world.is_single() {
        return Ok(path.to_owned());
    }
    let absolute = from_first(world, || {
        let absolute = std::path::absolute(path).context("finding the run's directory")?;
        absolute.into_os_string().into_string().map_err(|path| {
            anyhow!(
                "several ranks need a run directory whose name is Unicode, not {}",
                path.display()
            )
        })
    })?;
    Ok(PathBuf::from(absolute))
}
