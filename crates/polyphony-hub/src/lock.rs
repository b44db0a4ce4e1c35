//! Locks between processes, released when the process that holds them ends.

use std::{
    fs::{File, TryLockError},
    io,
    path::Path,
};

/// Waits for the lock at `path`, which is held until the file is dropped. The lock file is created if needed,
/// and is not removed.
///
/// # Errors
/// If the file cannot be made or locked.
pub(crate) fn lock(path: &Path) -> io::Result<File> {
    let file = File::create(path)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            log::info!("another process is obtaining a model: waiting for it");
            file.lock()?;
        }
        Err(TryLockError::Error(error)) => return Err(error),
    }
    Ok(file)
}
