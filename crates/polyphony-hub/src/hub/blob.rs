//! The contents of one file: downloaded, checked, and put into the cache.
//!
//! If the download of a large file breaks off, the part that has arrived is kept, and the next download
//! resumes there. A file is complete only if its size and digest are those that the hub announced.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use super::{
    client::{Contents, Failure, HubClient, Listed},
    settings::HubConfig,
};
use crate::{
    digest::{Sha256Digest, git_id},
    error::{During as _, HubError},
    transfer::{Transfer, TransferPhase},
};

/// The slowest server that is waited for, in bytes a second.
const SLOWEST: u64 = 4096;

/// Bytes per read.
const BUFFER: usize = 1 << 16;

/// How much more than ever before must have arrived when an answer breaks off, so that this does not count as a
/// failure. A server that sends a byte and breaks off would be asked again once for every byte.
const PROGRESS: u64 = 1 << 16;

/// The download of one file's contents.
pub(super) struct BlobFetch<'a> {
    pub(super) client: &'a HubClient<'a>,
    pub(super) settings: &'a HubConfig,
    pub(super) commit: &'a str,
    pub(super) file: &'a Listed,
    pub(super) on_transfer: &'a dyn Fn(Transfer<'_>),
}

impl BlobFetch<'_> {
    /// Puts the contents at this path, unless they are there already. The caller holds the lock.
    pub(super) fn place_at(&self, blob: &Path) -> Result<(), Failure> {
        if blob.is_file() && self.is_whole(blob)? {
            return Ok(());
        }
        remove(blob)?;
        let mut name = OsString::from(blob);
        name.push(".polyphony.incomplete");
        let partial = PathBuf::from(name);
        let slowest = Duration::from_secs(self.file.bytes / SLOWEST);
        let until = Instant::now() + self.settings.time_limit + slowest;
        let resumed = self.receive(&partial, until)?;
        let mut whole = self.is_whole(&partial)?;
        if !whole && resumed {
            // The part from an earlier attempt may be wrong.
            remove(&partial)?;
            self.receive(&partial, until)?;
            whole = self.is_whole(&partial)?;
        }
        if !whole {
            remove(&partial)?;
            return Err(self.damaged().into());
        }
        fs::rename(&partial, blob).during("writing", blob)?;
        Ok(())
    }

    /// Downloads what is missing from the partial file. Returns whether an earlier attempt had left a part.
    fn receive(&self, partial: &Path, until: Instant) -> Result<bool, Failure> {
        let options = OpenOptions::new().create(true).append(true).open(partial);
        let mut target = options.during("writing", partial)?;
        let mut have = target.metadata().during("reading", partial)?.len();
        if have > self.file.bytes {
            target.set_len(0).during("writing", partial)?;
            have = 0;
        }
        let resumed = have > 0;
        self.report(TransferPhase::Started, have);
        let outcome = self.receive_rest(&mut target, &mut have, partial, until);
        self.report(TransferPhase::Ended, have);
        outcome?;
        target.sync_all().during("writing", partial)?;
        Ok(resumed)
    }

    /// Downloads the rest, with retries if the answer breaks off.
    fn receive_rest(
        &self,
        target: &mut File,
        have: &mut u64,
        partial: &Path,
        until: Instant,
    ) -> Result<(), Failure> {
        let mut failures = 0;
        let mut restarted = false;
        let mut most = *have;
        while *have < self.file.bytes {
            let outcome = self.receive_some(target, have, partial, until);
            // A server that cannot continue begins anew, which is no progress until it is past the old end.
            let advanced = *have >= most + PROGRESS;
            most = most.max(*have);
            match outcome {
                Ok(()) if *have == self.file.bytes || advanced => {}
                // It ends before the size that the hub announced.
                Ok(()) => return Err(self.damaged().into()),
                Err(Failure::Silence(_)) if advanced && self.settings.retries > 0 => failures = 0,
                Err(Failure::Silence(_)) if failures < self.settings.retries => {
                    thread::sleep(self.settings.first_wait);
                    failures += 1;
                }
                Err(Failure::Refused(refusal))
                    if refusal.status.as_u16() == 416 && *have > 0 && !restarted =>
                {
                    // The file is not that long, so the part here is not its beginning.
                    restarted = true;
                    target.set_len(0).during("writing", partial)?;
                    *have = 0;
                }
                Err(failure) => return Err(failure),
            }
        }
        Ok(())
    }

    /// Reads one answer, from the first missing byte to its end.
    fn receive_some(
        &self,
        target: &mut File,
        have: &mut u64,
        partial: &Path,
        until: Instant,
    ) -> Result<(), Failure> {
        let response = self
            .client
            .contents(self.commit, &self.file.path, *have, until)?;
        if *have > 0 {
            let range = response.header("Content-Range").unwrap_or_default();
            let continues = response.status().as_u16() == 206
                && (range.is_empty() || range.starts_with(&format!("bytes {have}-")));
            if !continues {
                // It sends the whole file.
                target.set_len(0).during("writing", partial)?;
                *have = 0;
            }
        }
        let mut reader = response.into_reader();
        let mut buffer = vec![0; BUFFER];
        loop {
            let count = match reader.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(polyphony_http::HttpError::from(error).into()),
            };
            target
                .write_all(&buffer[..count])
                .during("writing", partial)?;
            *have += count as u64;
            if *have > self.file.bytes {
                target.set_len(0).during("writing", partial)?;
                return Err(self.damaged().into());
            }
            self.report(TransferPhase::Advanced, *have);
        }
        Ok(())
    }

    /// Whether contents have the size and the digest that the hub announced.
    fn is_whole(&self, path: &Path) -> Result<bool, HubError> {
        if fs::metadata(path).during("reading", path)?.len() != self.file.bytes {
            return Ok(false);
        }
        match &self.file.contents {
            Contents::Large(digest) => {
                let found = Sha256Digest::of_file(path).during("reading", path)?;
                Ok(found == *digest)
            }
            Contents::Git(id) => Ok(git_id(path)
                .during("reading", path)?
                .eq_ignore_ascii_case(id)),
        }
    }

    fn damaged(&self) -> HubError {
        HubError::Damaged {
            file: self.file.path.clone(),
        }
    }

    /// Smaller files arrive at once and are not reported.
    fn report(&self, phase: TransferPhase, done: u64) {
        if let Contents::Large(_) = self.file.contents {
            (self.on_transfer)(Transfer {
                file: &self.file.path,
                total: self.file.bytes,
                done,
                phase,
            });
        }
    }
}

fn remove(path: &Path) -> Result<(), HubError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome.during("removing", path),
    }
}
