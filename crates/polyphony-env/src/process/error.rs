//! What can go wrong between this program and the user's.

use std::{error::Error, fmt, io};

use super::call::CallName;

/// Why a program that serves as an environment could not be used.
#[derive(Debug)]
pub struct ProcessError {
    /// The program and its arguments, shortened where they are long.
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
    /// The operating system cannot start it.
    #[error(
        "cannot be started: check that the first word of `command` is a program that is \
         installed, and that `cwd` is a directory"
    )]
    Spawn {
        /// What the system says.
        source: io::Error,
    },
    /// Its pipes cannot be used.
    #[error("cannot be reached through its standard input and output")]
    Pipe {
        /// What the system says.
        source: io::Error,
    },
    /// It did not answer in time.
    #[error(
        "did not answer `{call}` within {secs} s ({came}); raise `{setting}`, or see that the program \
         writes one line per call and flushes it"
    )]
    Late {
        /// The call.
        call: CallName,
        /// The limit.
        secs: f64,
        /// The setting that is the limit.
        setting: &'static str,
        /// What it has written so far, in words.
        came: String,
    },
    /// It answered too much.
    #[error(
        "answered `{call}` with more than {limit} bytes on one line, which begins {came}; write less, \
         or raise `max_reply_bytes`"
    )]
    TooLarge {
        /// The call.
        call: CallName,
        /// The limit.
        limit: usize,
        /// What the answer begins with.
        came: String,
    },
    /// It answered something that is not JSON.
    #[error(
        "answered `{call}` with something that is not JSON ({reason}): {came}; only answers belong on \
         standard output, everything else on standard error"
    )]
    NotJson {
        /// The call.
        call: CallName,
        /// What the parser says.
        reason: String,
        /// The answer.
        came: String,
    },
    /// It answered another call.
    #[error(
        "answered `{call}`, which has the id {id}, with {came}; an answer must hold the `id` of its \
         call, and there must be one line per call"
    )]
    OtherCall {
        /// The call.
        call: CallName,
        /// Its number.
        id: u64,
        /// The answer.
        came: String,
    },
    /// Its answer is JSON, but not what the protocol says.
    #[error(
        "answered `{call}` with something that the protocol does not allow: {reason}; it was {came}"
    )]
    NotAllowed {
        /// The call.
        call: CallName,
        /// What is wrong with the answer, and what is allowed.
        reason: String,
        /// The answer.
        came: String,
    },
    /// It said that it cannot do what was asked for.
    #[error("reports an error in `{call}`: {message}")]
    Reported {
        /// The call.
        call: CallName,
        /// What it said.
        message: String,
    },
    /// It ended without answering.
    #[error("{} it answered `{call}`: {how}", ended(*.times))]
    Ended {
        /// The call.
        call: CallName,
        /// How often in a row it did.
        times: usize,
        /// How it ended, and what it wrote to standard error last.
        how: String,
    },
    /// Started again, it described itself otherwise.
    #[error(
        "answered the handshake otherwise than when it was started first: roles, parts and horizon \
         must depend on nothing but the settings"
    )]
    Changed,
}

fn ended(times: usize) -> &'static str {
    match times {
        1 => "ended before",
        _ => "was started again, and ended once more before",
    }
}

/// What a program wrote, fit to be shown: quoted, with what cannot be printed escaped, and shortened.
pub(super) fn shown(bytes: &[u8]) -> String {
    const MOST_BYTES: usize = 300;
    let head = &bytes[..bytes.len().min(MOST_BYTES)];
    let text = String::from_utf8_lossy(head);
    let text = text.trim_end_matches(['\n', '\r']);
    match bytes.len() > MOST_BYTES {
        true => format!("{text:?}… ({} bytes)", bytes.len()),
        false => format!("{text:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_is_bounded_and_escaped() {
        assert_eq!(shown(b"a\x1b[2J \"b\"\n"), r#""a\u{1b}[2J \"b\"""#);
        assert_eq!(shown(b"\xff"), "\"\u{fffd}\"");
        let long = shown(&[b'x'; 5000]);
        assert!(
            long.len() < 400 && long.ends_with("… (5000 bytes)"),
            "{long}"
        );
    }
}
