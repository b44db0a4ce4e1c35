//! Responses.

use std::{
    fmt,
    io::{self, Read},
};

use ureq::{
    Body,
    http::{self, StatusCode},
};

use crate::error::HttpError;

/// An answer whose body has not been read yet. The client's time limits also apply to reading it.
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

    /// The first bytes of the body, up to this many. The rest is not read.
    ///
    /// # Errors
    /// If the body breaks off or takes too long.
    pub fn read_up_to(self, limit: u64) -> Result<Vec<u8>, HttpError> {
        let mut bytes = Vec::new();
        self.into_reader().take(limit).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// A reader of the body. Its errors convert to [`HttpError`] with `From`. A body that is shorter than
    /// announced is an error.
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

/// Hides the type of the HTTP library's reader.
struct Reader(ureq::BodyReader<'static>);

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}
