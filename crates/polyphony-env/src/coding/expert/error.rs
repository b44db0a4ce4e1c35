//! The errors of requests to the outside model.

use std::{error::Error as StdError, time::Duration};

use polyphony_http::{HttpError, StatusCode};
use thiserror::Error;

/// How much of an answer a message shows, in characters.
const EXCERPT_CHARS: usize = 300;

/// Why there are no suggestions.
#[derive(Debug, Error)]
pub enum ExpertError {
    /// The base address cannot be used.
    #[error(
        "`{base}` is not a `base_url` of an expert: {reason}; it should look like \
         https://api.openai.com/v1 or http://localhost:8080/v1"
    )]
    Address {
        /// The address, without the parts that might be secret.
        base: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The environment variable contains no key.
    #[error(
        "the environment variable `{variable}` is not set, or empty: set it to the expert's key, \
         or leave out `key_variable` for a server that needs no key"
    )]
    NoKey {
        /// The variable that was named.
        variable: String,
    },
    /// The key cannot be sent.
    #[error(
        "the environment variable `{variable}` does not contain a valid key: a key consists of ASCII \
         letters, digits and punctuation, without spaces"
    )]
    BadKey {
        /// The variable that was named.
        variable: String,
    },
    /// The HTTP client could not be created.
    #[error(transparent)]
    Client(HttpError),
    /// A request failed, and is not tried again: no retry could help, none is left, or the endpoint asks for too
    /// long a wait.
    #[error("the expert at {url} {failure} (tried {tries}×)")]
    Request {
        /// The address.
        url: String,
        /// The number of tries.
        tries: u32,
        /// How the last try failed.
        failure: ExpertFailure,
    },
}

/// How a request failed, and what would help.
#[derive(Debug, Error)]
pub enum ExpertFailure {
    /// There was no answer, or it broke off.
    #[error(
        "cannot be reached: {reason}; check that `base_url` is right, that the server runs, and that \
         this machine has a network connection"
    )]
    Unreachable {
        /// The error of the HTTP client.
        reason: String,
    },
    /// The answer took too long.
    #[error(
        "gave no complete answer within {after:?}; raise `timeout_secs`, or check whether the server \
         is overloaded"
    )]
    TimedOut {
        /// The time limit.
        after: Duration,
    },
    /// The endpoint refused the request.
    #[error(
        "answered {status}: {body}; {wait}{advice}",
        wait = requested_wait(*retry_after)
    )]
    Refused {
        /// The HTTP status.
        status: StatusCode,
        /// How long the endpoint asks to wait.
        retry_after: Option<Duration>,
        /// The first part of its answer.
        body: String,
        /// What would help.
        advice: String,
    },
    /// The answer does not have a suggestion for every agent.
    #[error(
        "answered without a suggestion for every agent: {reason}; it answered: {answer}; another \
         `model` may follow the instructions better"
    )]
    Malformed {
        /// What is missing.
        reason: String,
        /// The first part of the answer.
        answer: String,
    },
}

impl ExpertFailure {
    /// Whether another try could help.
    pub(super) fn is_temporary(&self) -> bool {
        const TEMPORARY: [StatusCode; 3] = [
            StatusCode::REQUEST_TIMEOUT,
            StatusCode::TOO_EARLY,
            StatusCode::TOO_MANY_REQUESTS,
        ];
        match self {
            Self::Unreachable { .. } | Self::TimedOut { .. } | Self::Malformed { .. } => true,
            Self::Refused { status, .. } => status.is_server_error() || TEMPORARY.contains(status),
        }
    }

    /// How long the endpoint asks to wait before another try.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } => *retry_after,
            Self::Unreachable { .. } | Self::TimedOut { .. } | Self::Malformed { .. } => None,
        }
    }
}

/// The wait that the endpoint asks for, if there is one.
fn requested_wait(retry_after: Option<Duration>) -> String {
    match retry_after {
        Some(time) if !time.is_zero() => format!("it asks to wait {} s: ", time.as_secs()),
        _ => String::new(),
    }
}

/// What would help after a refusal.
pub(super) fn advice(
    status: StatusCode,
    location: Option<&str>,
    key_variable: Option<&str>,
) -> String {
    match (status.as_u16(), key_variable) {
        (401 | 403, Some(variable)) => {
            format!(
                "check that the environment variable `{variable}` contains a key for this model"
            )
        }
        (401 | 403, None) => {
            "set `key_variable` to the name of the environment variable that contains the key"
                .to_owned()
        }
        (404 | 405, _) => {
            "check that the server knows `model`, and that `base_url` is the address before \
             `/chat/completions`"
                .to_owned()
        }
        (300..400, _) => format!(
            "redirects are not followed: the new address is {}; set `base_url` to it only if you trust it",
            location.unwrap_or("not named")
        ),
        (400 | 422, _) => "if it refuses `temperature` or `seed`, set that to None".to_owned(),
        (429, _) => "send fewer requests, wait, or raise `retries`".to_owned(),
        (408 | 425 | 500.., _) => "try again later, or raise `retries`".to_owned(),
        _ => "see the endpoint's documentation of this status".to_owned(),
    }
}

/// A text on one line, with control characters escaped.
pub(super) fn one_line(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    let mut line = String::new();
    for character in words.join(" ").chars() {
        match character.is_control() {
            true => line.extend(character.escape_default()),
            false => line.push(character),
        }
    }
    line
}

/// The first part of a line.
pub(super) fn excerpt(line: &str) -> String {
    let mut characters = line.chars();
    let mut excerpt: String = characters.by_ref().take(EXCERPT_CHARS).collect();
    if characters.next().is_some() {
        excerpt.push('…');
    }
    if excerpt.is_empty() {
        excerpt.push_str("(nothing)");
    }
    excerpt
}

/// A client's error with its causes, on one line.
pub(super) fn with_causes(error: &HttpError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}
