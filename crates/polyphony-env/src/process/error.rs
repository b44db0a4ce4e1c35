//! The errors of a program that is an environment.

use std::{error::Error, fmt, io};

use super::call::CallName;

/// Why a program could not be used as an environment.
#[derive(Debug)]
pub struct ProcessError {
    /// The program and its arguments, shortened if they are long.
    pub command: String,
    /// What went wrong.
    pub failure: ProcessFailure,
}

impl fmt::Display for ProcessError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "`{}` {}", self.command, self.failure)
    }
}

impl Error for ProcessError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        // The failure itself is part of the message.
        self.failure.source()
    }
}

/// What went wrong with a program.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProcessFailure {
    /// A setting is not allowed.
    #[error("cannot be used: {0}")]
    Setting(String),
    /// The operating system cannot start the program.
    #[error(
        "cannot be started: check that the first word of `command` is a program that is \
         installed, and that `cwd` is a directory"
    )]
    Spawn {
        /// The system's error.
        source: io::Error,
    },
    /// The pipes to it cannot be used.
    #[error("cannot be reached through its standard input and output")]
    Pipe {
        /// The system's error.
        source: io::Error,
    },
    /// It did not answer in time.
    #[error(
        "did not answer `{call}` within {secs} s ({received}); raise `{setting}`, or make sure that the \
         program writes one line per call and flushes it"
    )]
    Late {
        /// The call.
        call: CallName,
        /// The limit.
        secs: f64,
        /// The name of the setting that sets the limit.
        setting: &'static str,
        /// A description of what it has written so far.
        received: String,
    },
    /// It answered too much.
    #[error(
        "answered `{call}` with a line of more than {limit} bytes, which begins {received}; write less \
         or raise `max_reply_bytes`"
    )]
    TooLarge {
        /// The call.
        call: CallName,
        /// The limit.
        limit: usize,
        /// How the answer begins.
        received: String,
    },
    /// It answered something that is not JSON.
    #[error(
        "answered `{call}` with something that is not JSON ({reason}): {answer}; only answers belong \
         on standard output, everything else on standard error"
    )]
    NotJson {
        /// The call.
        call: CallName,
        /// The parser's error.
        reason: String,
        /// The answer.
        answer: String,
    },
    /// Its answer contains a number that JSON does not have.
    #[error(
        "answered `{call}` with NaN or Infinity, which JSON does not have: every number must be finite, \
         rewards too, so give a bad response a low reward; the answer was {answer}"
    )]
    NotFinite {
        /// The call.
        call: CallName,
        /// The answer.
        answer: String,
    },
    /// It answered another call.
    #[error(
        "answered `{call}`, which has the id {id}, with {answer}; an answer must repeat the `id` of its \
         call, and there must be one line per call"
    )]
    OtherCall {
        /// The call.
        call: CallName,
        /// The call's id.
        id: u64,
        /// The answer.
        answer: String,
    },
    /// Its answer is JSON, but violates the protocol.
    #[error(
        "answered `{call}` with something that the protocol does not allow: {reason}; the answer was \
         {answer}"
    )]
    NotAllowed {
        /// The call.
        call: CallName,
        /// What is wrong with the answer, and what is allowed.
        reason: String,
        /// The answer.
        answer: String,
    },
    /// It reported an error.
    #[error("reports an error in `{call}`: {message}")]
    Reported {
        /// The call.
        call: CallName,
        /// Its message.
        message: String,
    },
    /// It ended without answering.
    #[error("{} it answered `{call}`: {how}", ended(*.times))]
    Ended {
        /// The call.
        call: CallName,
        /// The number of times in a row that this happened.
        times: usize,
        /// How it ended, and the end of its standard error.
        how: String,
    },
    /// Another worker described another game.
    #[error(
        "answered the handshake with a different value of `{key}` in another worker: everything but \
         `description` must depend on the settings alone"
    )]
    Changed {
        /// The first key that differs.
        key: &'static str,
    },
}

impl ProcessFailure {
    /// Identifies the problem: failures of the same program with the same cause have the same text, whatever
    /// the answer was.
    pub(super) fn problem_key(&self) -> String {
        match self {
            Self::NotAllowed { call, reason, .. } => format!("{call}: {reason}"),
            Self::Reported { call, message } => format!("{call} reports {message}"),
            // The last line of a traceback names the exception.
            Self::Ended { call, how, .. } => {
                let last = how.lines().next_back().unwrap_or_default();
                format!("{call} ends: {last}")
            }
            Self::Late { call, .. } => format!("{call} is late"),
            Self::TooLarge { call, .. } => format!("{call} is too large"),
            Self::NotJson { call, .. } => format!("{call} is not JSON"),
            Self::NotFinite { call, .. } => format!("{call} is not finite"),
            Self::OtherCall { call, .. } => format!("{call} has another id"),
            Self::Changed { .. } | Self::Setting(_) | Self::Spawn { .. } | Self::Pipe { .. } => {
                self.to_string()
            }
        }
    }
}

fn ended(times: usize) -> &'static str {
    match times {
        1 => "ended before",
        _ => "was restarted and ended again before",
    }
}

/// A program's output for messages: quoted, with control characters escaped, and shortened.
pub(super) fn excerpt(bytes: &[u8]) -> String {
    const MAX_BYTES: usize = 300;
    let head = &bytes[..bytes.len().min(MAX_BYTES)];
    let text = String::from_utf8_lossy(head);
    let text = text.trim_end_matches(['\n', '\r']);
    match bytes.len() > MAX_BYTES {
        true => format!("{text:?}… ({} bytes)", bytes.len()),
        false => format!("{text:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn excerpts_are_bounded_and_escaped() {
        assert_eq!(excerpt(b"a\x1b[2J \"b\"\n"), r#""a\u{1b}[2J \"b\"""#);
        assert_eq!(excerpt(b"\xff"), "\"\u{fffd}\"");
        let long = excerpt(&[b'x'; 5000]);
        assert!(
            long.len() < 400 && long.ends_with("… (5000 bytes)"),
            "{long}"
        );
    }
}
