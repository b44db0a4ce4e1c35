//! One process at a time, through locks that end with the process that holds them.

use std::{
    fs::{File, TryLockError},
    io,
    path::Path,
};

/// Waits until no other process holds the lock at `path`, and keeps others from it until dropped.
/// The file is made if need be, and stays.
///
/// # Errors
/// If the file cannot be made or locked.
pub(crate) fn lock(path: &Path) -> io::Result<File> {
    let file = File::create(path)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            log::info!("another process obtains a model: waiting for it");
            file.lock()?;
        }
        Err(TryLockError::Error(error)) => return Err(error),
    }
    Ok(file)
}
