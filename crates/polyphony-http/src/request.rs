//! Requests.

use std::time::Duration;

use ureq::http::Method;

use crate::address::Address;

/// One request. Nothing is sent before [`Client::send`](crate::Client::send).
#[derive(Clone, Debug)]
pub struct Request<'a> {
    pub(crate) method: Method,
    pub(crate) address: &'a Address,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Option<&'a [u8]>,
    pub(crate) total_timeout: Option<Duration>,
}

impl<'a> Request<'a> {
    /// A GET request for an address.
    pub fn get(address: &'a Address) -> Self {
        Self {
            method: Method::GET,
            address,
            headers: Vec::new(),
            body: None,
            total_timeout: None,
        }
    }

    /// A POST request that sends a body of this media type to an address.
    pub fn post(address: &'a Address, media_type: &str, body: &'a [u8]) -> Self {
        let request = Self {
            method: Method::POST,
            address,
            headers: Vec::new(),
            body: Some(body),
            total_timeout: None,
        };
        request.header("Content-Type", media_type)
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// Sets the longest time until the last byte of the answer is read, instead of the client's
    /// `total_timeout`.
    #[must_use]
    pub fn within(mut self, total_timeout: Duration) -> Self {
        self.total_timeout = Some(total_timeout);
        self
    }

    /// Adds the header that carries a token.
    #[must_use]
    pub fn bearer(self, token: &str) -> Self {
        self.header("Authorization", format!("Bearer {token}"))
    }
}
