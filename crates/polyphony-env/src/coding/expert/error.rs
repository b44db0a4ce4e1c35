//! Everything that can go wrong between us and the outside model.

use std::{error::Error as StdError, time::Duration};

use polyphony_http::{HttpError, StatusCode};
use thiserror::Error;

/// How much of an answer a message shows, in characters.
const SHOWN_CHARACTERS: usize = 300;

/// Why there are no suggestions.
#[derive(Debug, Error)]
pub enum ExpertError {
    /// The base address cannot be used.
    #[error(
        "`{base}` is no `base_url` of an expert: {reason}; it should look like \
         https://api.openai.com/v1 or http://localhost:8080/v1"
    )]
    Address {
        /// The address, without what might be secret.
        base: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The environment holds no key.
    #[error(
        "the environment variable `{variable}` is not set, or empty: set it to the expert's key, \
         or leave out `key_variable` for a server that wants none"
    )]
    NoKey {
        /// The variable that was named.
        variable: String,
    },
    /// The key cannot be sent.
    #[error(
        "the environment variable `{variable}` holds no key: a key has no spaces, and nothing but \
         ASCII letters, digits and signs"
    )]
    BadKey {
        /// The variable that was named.
        variable: String,
    },
    /// The HTTP client could not be made.
    #[error(transparent)]
    Client(HttpError),
    /// A request failed, and so did as many further tries as the settings allow and as could help.
    #[error("the expert at {url} {failure} (tried {tries}×)")]
    Request {
        /// The address.
        url: String,
        /// How often it was tried.
        tries: u32,
        /// What came of the last one.
        failure: ExpertFailure,
    },
}

/// What came of a request in place of suggestions, and what would help.
#[derive(Debug, Error)]
pub enum ExpertFailure {
    /// Nobody answered, or the answer broke off.
    #[error(
        "cannot be reached: {reason}; see that `base_url` is right, that the server runs, and that \
         this machine has a network"
    )]
    Unreachable {
        /// What the client says.
        reason: String,
    },
    /// The answer took too long.
    #[error(
        "gave no whole answer within {after:?}; raise `timeout_secs`, or see whether the server is \
         overloaded"
    )]
    TimedOut {
        /// How long was waited.
        after: Duration,
    },
    /// The endpoint said no.
    #[error("answered {status}: {body}; {asked}{advice}", asked = asked(*retry_after))]
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
    /// The answer holds no suggestion for every agent.
    #[error(
        "answered without a suggestion for every agent: {reason}; it said: {answer}; another \
         `model` may do as it is told"
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
    pub(super) fn may_pass(&self) -> bool {
        const PASSING: [StatusCode; 3] = [
            StatusCode::REQUEST_TIMEOUT,
            StatusCode::TOO_EARLY,
            StatusCode::TOO_MANY_REQUESTS,
        ];
        match self {
            Self::Unreachable { .. } | Self::TimedOut { .. } | Self::Malformed { .. } => true,
            Self::Refused { status, .. } => status.is_server_error() || PASSING.contains(status),
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

/// What the endpoint asks for, where it is more than a moment.
fn asked(retry_after: Option<Duration>) -> String {
    match retry_after {
        Some(time) if !time.is_zero() => format!("it asks to wait {} s: ", time.as_secs()),
        _ => String::new(),
    }
}

/// What would help against a refusal.
pub(super) fn advice(
    status: StatusCode,
    location: Option<&str>,
    key_variable: Option<&str>,
) -> String {
    match (status.as_u16(), key_variable) {
        (401 | 403, Some(variable)) => {
            format!("see that the environment variable `{variable}` holds a key for this model")
        }
        (401 | 403, None) => {
            "name the environment variable that holds the key in `key_variable`".to_owned()
        }
        (404 | 405, _) => {
            "see that `model` is known there, and that `base_url` is what `/chat/completions` \
             follows"
                .to_owned()
        }
        (300..400, _) => format!(
            "redirects are not followed: set `base_url` to where it is now ({})",
            location.unwrap_or("it does not say where")
        ),
        (400 | 422, _) => "where it refuses `temperature` or `seed`, set that to None".to_owned(),
        (429, _) => "ask less, wait, or raise `retries`".to_owned(),
        (408 | 425 | 500.., _) => "try again later, or raise `retries`".to_owned(),
        _ => "see what the endpoint's documentation says of it".to_owned(),
    }
}

/// The first part of a text, on one line.
pub(super) fn excerpt(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    let line = words.join(" ");
    let mut characters = line.chars().filter(|character| !character.is_control());
    let mut shown: String = characters.by_ref().take(SHOWN_CHARACTERS).collect();
    if characters.next().is_some() {
        shown.push('…');
    }
    if shown.is_empty() {
        shown.push_str("(nothing)");
    }
    shown
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
