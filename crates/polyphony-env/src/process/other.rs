//! The worker on systems other than Unix, where programs cannot be environments.

use std::{convert::Infallible, io, process::Command, time::Instant};

/// A worker that never exists.
pub(super) struct Worker(Infallible);

/// Why a call was not answered.
#[derive(Debug)]
#[expect(dead_code, reason = "no worker ever starts here")]
pub(super) enum ExchangeError {
    Late(Vec<u8>),
    TooLarge(Vec<u8>),
    Ended(String),
    Pipe(io::Error),
}

impl Worker {
    pub(super) fn start(_command: Command, _label: &str, _level: log::Level) -> io::Result<Self> {
        Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "programs as environments need a Unix system",
        ))
    }

    pub(super) fn standard_error(&self) -> &str {
        match self.0 {}
    }

    pub(super) fn exchange(
        &mut self,
        _: &[u8],
        _: Instant,
        _: usize,
    ) -> Result<Vec<u8>, ExchangeError> {
        match self.0 {}
    }

    pub(super) fn kill(&mut self) -> Option<std::process::ExitStatus> {
        match self.0 {}
    }

    pub(super) fn close(&mut self) {
        match self.0 {}
    }

    pub(super) fn stop(self) -> bool {
        match self.0 {}
    }
}
