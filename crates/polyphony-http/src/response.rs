//! What is answered.

use std::{
    fmt,
    io::{self, Read},
};

use ureq::{
    Body,
    http::{self, StatusCode},
};

use crate::error::HttpError;

/// An answer whose body has not been read yet. Reading it is subject to the client's time limits.
pub struct Response(http::Response<Body>);

impl Response {
    pub(crate) fn new(response: http::Response<Body>) -> Self {
        Self(response)
    }

    /// The status.
    pub fn status(&self) -> StatusCode {
        self.0.status()
    }

    /// A header's value, if it is there and readable.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.0.headers().get(name)?.to_str().ok()
    }

    /// The first bytes of the body, up to this many. What follows them is not read.
    ///
    /// # Errors
    /// If the body breaks off or takes too long.
    pub fn read_up_to(self, limit: u64) -> Result<Vec<u8>, HttpError> {
        let mut bytes = Vec::new();
        self.into_reader().take(limit).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// The body. Its reader's errors become an [`HttpError`] with `From`; a body that is shorter
    /// than it was announced is one.
    pub fn into_reader(self) -> impl Read {
        Reader(self.0.into_body().into_reader())
    }
}

impl fmt::Debug for Response {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut fields = formatter.debug_struct("Response");
        fields
            .field("status", &self.status())
            .finish_non_exhaustive()
    }
}

/// A reader that does not show whose it is.
struct Reader(ureq::BodyReader<'static>);

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}
