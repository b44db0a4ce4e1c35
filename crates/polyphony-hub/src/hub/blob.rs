//! The contents of one file: downloaded, checked, and put into the cache.
//!
//! If the download of a large file breaks off, the part that has arrived stays, and the next download resumes
//! there. A file is complete only if its size and digest are those that the hub announced.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use super::{
    client::{Contents, Failure, HubClient, RemoteFile},
    settings::HubConfig,
};
use crate::{
    digest::{Sha256Digest, git_id},
    error::{During as _, HubError},
    transfer::{Transfer, TransferPhase},
};

/// The download speed for which the time limit allows, in bytes per second. The download of a large file from
/// a slower server exceeds the limit.
const MIN_BYTES_PER_SEC: u64 = 4096;

/// The number of bytes per read.
const BUFFER_BYTES: usize = 1 << 16;

/// An answer that breaks off does not count as a failure if it has brought at least this many new bytes.
/// Otherwise a server that sends single bytes would be asked again once per byte.
const MIN_PROGRESS_BYTES: u64 = 1 << 16;

/// The download of one file's contents.
pub(super) struct BlobFetch<'a> {
    pub(super) client: &'a HubClient<'a>,
    pub(super) settings: &'a HubConfig,
    pub(super) commit: &'a str,
    pub(super) file: &'a RemoteFile,
    pub(super) on_transfer: &'a dyn Fn(Transfer<'_>),
}

impl BlobFetch<'_> {
    /// Puts the contents at this path, unless they are there already. The caller must hold the blob's lock.
    pub(super) fn place_at(&self, blob: &Path) -> Result<(), Failure> {
        if blob.is_file() && self.is_complete(blob)? {
            return Ok(());
        }
        remove(blob)?;
        let mut name = OsString::from(blob);
        name.push(".polyphony.incomplete");
        let partial = PathBuf::from(name);
        let transfer_time = Duration::from_secs(self.file.bytes / MIN_BYTES_PER_SEC);
        let deadline = Instant::now() + self.settings.time_limit + transfer_time;
        let resumed = self.receive(&partial, deadline)?;
        let mut is_complete = self.is_complete(&partial)?;
        if !is_complete && resumed {
            // The part from an earlier attempt may be damaged.
            remove(&partial)?;
            self.receive(&partial, deadline)?;
            is_complete = self.is_complete(&partial)?;
        }
        if !is_complete {
            remove(&partial)?;
            return Err(self.damaged().into());
        }
        fs::rename(&partial, blob).during("writing", blob)?;
        Ok(())
    }

    /// Downloads the missing bytes of the partial file. Returns whether an earlier attempt had left a part.
    fn receive(&self, partial: &Path, deadline: Instant) -> Result<bool, Failure> {
        let options = OpenOptions::new().create(true).append(true).open(partial);
        let mut target = options.during("writing", partial)?;
        let mut received = target.metadata().during("reading", partial)?.len();
        if received > self.file.bytes {
            target.set_len(0).during("writing", partial)?;
            received = 0;
        }
        let resumed = received > 0;
        self.report(TransferPhase::Started, received);
        let outcome = self.receive_rest(&mut target, &mut received, partial, deadline);
        self.report(TransferPhase::Ended, received);
        outcome?;
        target.sync_all().during("writing", partial)?;
        Ok(resumed)
    }

    /// Downloads the rest, with retries if the answer breaks off.
    fn receive_rest(
        &self,
        target: &mut File,
        received: &mut u64,
        partial: &Path,
        deadline: Instant,
    ) -> Result<(), Failure> {
        let mut failures = 0;
        let mut restarted = false;
        let mut furthest = *received;
        while *received < self.file.bytes {
            let outcome = self.receive_some(target, received, partial, deadline);
            // A server that cannot resume sends the file from its start. Only bytes beyond the old end count
            // as progress.
            let advanced = *received >= furthest + MIN_PROGRESS_BYTES;
            furthest = furthest.max(*received);
            match outcome {
                Ok(()) if *received == self.file.bytes || advanced => {}
                // The file is shorter than the hub announced.
                Ok(()) => return Err(self.damaged().into()),
                Err(Failure::NoAnswer(_)) if advanced && self.settings.retries > 0 => failures = 0,
                Err(Failure::NoAnswer(_)) if failures < self.settings.retries => {
                    thread::sleep(self.settings.first_wait);
                    failures += 1;
                }
                Err(Failure::Refused(refusal))
                    if refusal.status.as_u16() == 416 && *received > 0 && !restarted =>
                {
                    // The hub's file is shorter than the part here, so the part is not its beginning.
                    restarted = true;
                    target.set_len(0).during("writing", partial)?;
                    *received = 0;
                }
                Err(failure) => return Err(failure),
            }
        }
        Ok(())
    }

    /// Reads one answer, from the first missing byte to the end of the answer.
    fn receive_some(
        &self,
        target: &mut File,
        received: &mut u64,
        partial: &Path,
        deadline: Instant,
    ) -> Result<(), Failure> {
        let response = self
            .client
            .contents(self.commit, &self.file.path, *received, deadline)?;
        if *received > 0 {
            let range = response.header("Content-Range").unwrap_or_default();
            let is_resumed = response.status().as_u16() == 206
                && (range.is_empty() || range.starts_with(&format!("bytes {received}-")));
            if !is_resumed {
                // The server sends the whole file.
                target.set_len(0).during("writing", partial)?;
                *received = 0;
            }
        }
        let mut reader = response.into_reader();
        let mut buffer = vec![0; BUFFER_BYTES];
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
            *received += count as u64;
            if *received > self.file.bytes {
                target.set_len(0).during("writing", partial)?;
                return Err(self.damaged().into());
            }
            self.report(TransferPhase::Advanced, *received);
        }
        Ok(())
    }

    /// Whether the contents of a file have the size and the digest that the hub announced.
    fn is_complete(&self, path: &Path) -> Result<bool, HubError> {
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

    /// Reports the progress of a large file. Smaller files arrive at once.
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
