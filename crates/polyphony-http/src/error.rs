//! The errors of requests.

use std::io;

use thiserror::Error;

/// Why a request has no answer, or no complete one.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum HttpError {
    /// A text is not a valid address.
    #[error("`{text}` is not an HTTP address: {reason}")]
    Address {
        /// The text, without a user name, a password or a query.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// An environment variable names a proxy that cannot be used.
    #[error(
        "the environment variable `{variable}` does not name a proxy: it should look like \
         http://host:port"
    )]
    Proxy {
        /// The variable. Its value may hold a password, so it is not repeated.
        variable: &'static str,
        /// The error of the HTTP library.
        source: Box<ureq::Error>,
    },
    /// A request is malformed, such as one with a line break in a header.
    #[error("the request is malformed")]
    Request(#[source] ureq::http::Error),
    /// A time limit has passed.
    #[error("no answer in time ({phase})")]
    TimedOut {
        /// What took too long, in the words of the HTTP library.
        phase: String,
    },
    /// No server has this name.
    #[error("the host is not found")]
    HostNotFound,
    /// The connection could not be made, was not secure, or broke off.
    #[error("the connection failed")]
    Connection(#[source] io::Error),
    /// The proxy refused to connect to the server.
    #[error("the proxy did not connect: {0}")]
    ProxyRefused(String),
    /// The answer is not HTTP, or the HTTP library gave up for another reason.
    #[error("the exchange failed")]
    Exchange(#[source] Box<ureq::Error>),
}

impl HttpError {
    /// Whether there was no answer, or an incomplete one. The same request may succeed later.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::TimedOut { .. }
            | Self::HostNotFound
            | Self::Connection(_)
            | Self::ProxyRefused(_)
            | Self::Exchange(_) => true,
            Self::Address { .. } | Self::Proxy { .. } | Self::Request(_) => false,
        }
    }

    /// Whether a time limit has passed.
    pub fn is_timeout(&self) -> bool {
        matches!(self, Self::TimedOut { .. })
    }
}

impl From<ureq::Error> for HttpError {
    fn from(error: ureq::Error) -> Self {
        match error {
            ureq::Error::Timeout(phase) => Self::TimedOut {
                phase: phase.to_string(),
            },
            ureq::Error::Io(error) => match error.kind() {
                io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => Self::TimedOut {
                    phase: error.to_string(),
                },
                _ => Self::Connection(error),
            },
            ureq::Error::Http(error) => Self::Request(error),
            ureq::Error::HostNotFound => Self::HostNotFound,
            ureq::Error::ConnectProxyFailed(reason) => Self::ProxyRefused(reason),
            other => Self::Exchange(Box::new(other)),
        }
    }
}

impl From<io::Error> for HttpError {
    /// Converts an error of a response's reader, which may contain an error of the HTTP library.
    fn from(error: io::Error) -> Self {
        ureq::Error::from(error).into()
    }
}
