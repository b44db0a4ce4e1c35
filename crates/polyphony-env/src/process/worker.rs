//! One running program and the pipes to it.
//!
//! A worker needs no threads: the thread that waits for an answer also logs the program's standard error.
//! Output between two calls stays in the pipe until the next call.

use std::{
    io::{self, Read, Write},
    process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::ioctl_fionbio,
};

use super::group::Group;

/// How long a program may take to end after its standard input is closed.
const GRACE: Duration = Duration::from_secs(1);

/// How long to wait between two checks of whether a program has ended.
const CHECK_INTERVAL: Duration = Duration::from_millis(5);

/// How many bytes of the end of standard error are stored for messages.
const TAIL_BYTES: usize = 2000;

/// The longest line of standard error that is logged in one piece.
const LOG_LINE_BYTES: usize = 8192;

/// A running program. Dropping it leaves no process of its group behind.
pub(super) struct Worker {
    child: Child,
    group: Group,
    stdin: Option<ChildStdin>,
    stdout: Option<ChildStdout>,
    stderr: Option<ChildStderr>,
    /// Bytes from standard output that are not part of an answer yet.
    received: Vec<u8>,
    log: Log,
}

/// Why a call was not answered.
#[derive(Debug)]
pub(super) enum ExchangeError {
    /// The deadline passed. Contains the bytes received so far.
    Late(Vec<u8>),
    /// The answer is too large. Contains its beginning.
    TooLarge(Vec<u8>),
    /// The program ended. Describes how.
    Ended(String),
    /// The pipes cannot be used.
    Pipe(io::Error),
}

impl From<io::Error> for ExchangeError {
    fn from(error: io::Error) -> Self {
        Self::Pipe(error)
    }
}

impl From<rustix::io::Errno> for ExchangeError {
    fn from(error: rustix::io::Errno) -> Self {
        Self::Pipe(error.into())
    }
}

impl Worker {
    /// Starts a program in its own process group. Its standard error is logged at `level`, with `label` as
    /// the prefix of each line.
    pub(super) fn start(mut command: Command, label: &str, level: log::Level) -> io::Result<Self> {
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let (group, mut child) = Group::spawn(&mut command, GRACE)?;
        let worker = Self {
            stdin: child.stdin.take(),
            stdout: child.stdout.take(),
            stderr: child.stderr.take(),
            child,
            group,
            received: Vec::new(),
            log: Log::new(label, level),
        };
        // A failure from here on drops the worker, which ends the program.
        if let Some(stdin) = &worker.stdin {
            ioctl_fionbio(stdin, true)?;
        }
        if let Some(stdout) = &worker.stdout {
            ioctl_fionbio(stdout, true)?;
        }
        if let Some(stderr) = &worker.stderr {
            ioctl_fionbio(stderr, true)?;
        }
        Ok(worker)
    }

    /// The end of the program's standard error so far.
    pub(super) fn standard_error(&self) -> &str {
        self.log.tail()
    }

    /// Sends a line and waits for the line that answers it.
    pub(super) fn exchange(
        &mut self,
        request: &[u8],
        deadline: Instant,
        limit: usize,
    ) -> Result<Vec<u8>, ExchangeError> {
        let mut unsent = request;
        let mut searched = 0;
        loop {
            let end = self.received[searched..]
                .iter()
                .position(|&byte| byte == b'\n');
            let length = end.map_or(self.received.len(), |end| searched + end);
            if length > limit {
                return Err(ExchangeError::TooLarge(std::mem::take(&mut self.received)));
            }
            if end.is_some() {
                let rest = self.received.split_off(length + 1);
                self.received.truncate(length);
                return Ok(std::mem::replace(&mut self.received, rest));
            }
            searched = length;
            if self.stdout.is_none() {
                return Err(ExchangeError::Ended(self.describe_end()));
            }
            let Some(time_left) = deadline.checked_duration_since(Instant::now()) else {
                return Err(ExchangeError::Late(std::mem::take(&mut self.received)));
            };
            let can_send = self.wait(!unsent.is_empty(), time_left)?;
            if can_send && !self.send(&mut unsent)? {
                return Err(ExchangeError::Ended(self.describe_end()));
            }
            self.receive()?;
        }
    }

    /// Waits until the program's output can be read or, with `wants_to_send`, its input can be written.
    /// Returns whether the input can be written.
    fn wait(&self, wants_to_send: bool, max_wait: Duration) -> Result<bool, ExchangeError> {
        let mut pipes = Vec::with_capacity(3);
        if let (Some(stdin), true) = (&self.stdin, wants_to_send) {
            pipes.push(PollFd::new(stdin, PollFlags::OUT));
        }
        let sends = pipes.len();
        pipes.extend(
            self.stdout
                .iter()
                .map(|pipe| PollFd::new(pipe, PollFlags::IN)),
        );
        pipes.extend(
            self.stderr
                .iter()
                .map(|pipe| PollFd::new(pipe, PollFlags::IN)),
        );
        let timeout = Timespec {
            tv_sec: i64::try_from(max_wait.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: max_wait.subsec_nanos().into(),
        };
        match poll(&mut pipes, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(pipes[..sends].iter().any(|pipe| !pipe.revents().is_empty()))
    }

    /// Sends as much as the pipe accepts; returns whether the program still reads.
    fn send(&mut self, unsent: &mut &[u8]) -> Result<bool, ExchangeError> {
        let Some(stdin) = &mut self.stdin else {
            return Ok(false);
        };
        match stdin.write(unsent) {
            Ok(sent) => {
                *unsent = &unsent[sent..];
                Ok(true)
            }
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(true),
                io::ErrorKind::BrokenPipe => {
                    // The program's last output may explain why.
                    self.receive()?;
                    Ok(false)
                }
                _ => Err(error.into()),
            },
        }
    }

    /// Reads the program's output.
    fn receive(&mut self) -> io::Result<()> {
        if let Some(stdout) = &mut self.stdout
            && !read_available(stdout, &mut self.received)?
        {
            self.stdout = None;
        }
        let mut stderr_bytes = Vec::new();
        if let Some(stderr) = &mut self.stderr
            && !read_available(stderr, &mut stderr_bytes)?
        {
            self.stderr = None;
        }
        self.log.add(&stderr_bytes);
        Ok(())
    }

    /// Waits a little for a program that should end; returns whether it did.
    fn wait_for_end(&mut self) -> bool {
        let deadline = Instant::now() + GRACE;
        while matches!(self.child.try_wait(), Ok(None)) {
            // A program that writes to a full pipe cannot end, so its output is read.
            let has_failed = self.wait(false, CHECK_INTERVAL).is_err() || self.receive().is_err();
            self.received.clear();
            if has_failed || Instant::now() >= deadline {
                return false;
            }
        }
        true
    }

    /// Describes how a program ended, once it no longer answers.
    fn describe_end(&mut self) -> String {
        let has_ended = self.wait_for_end();
        let how = match (has_ended, self.kill()) {
            (true, Some(status)) => status.to_string(),
            _ => "it closed its standard input or output".to_owned(),
        };
        match self.log.tail() {
            "" => format!("{how}; it wrote nothing to standard error"),
            tail => format!("{how}; its standard error ended with\n{tail}"),
        }
    }

    /// Kills the program and the rest of its group at once, and logs its last output.
    pub(super) fn kill(&mut self) -> Option<ExitStatus> {
        self.close();
        self.group.kill();
        // The program may have left its group.
        let _ = self.child.kill();
        let status = self.child.wait().ok();
        let _ = self.receive();
        self.received.clear();
        self.log.flush();
        status
    }

    /// Closes the program's standard input, which asks it to end.
    pub(super) fn close(&mut self) {
        self.stdin = None;
    }

    /// Ends the program; returns whether it ended by itself once its standard input was closed.
    pub(super) fn stop(mut self) -> bool {
        self.end()
    }

    fn end(&mut self) -> bool {
        self.close();
        let has_ended = self.wait_for_end();
        self.kill();
        has_ended
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.end();
    }
}

/// Appends the bytes that can be read without waiting; returns whether more may come.
fn read_available(pipe: &mut impl Read, into: &mut Vec<u8>) -> io::Result<bool> {
    let mut chunk = [0; 1 << 16];
    match pipe.read(&mut chunk) {
        Ok(0) => Ok(false),
        Ok(count) => {
            into.extend_from_slice(&chunk[..count]);
            Ok(true)
        }
        Err(error) => match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(true),
            _ => Err(error),
        },
    }
}

/// Logs a program's standard error line by line, and stores its end.
struct Log {
    label: String,
    level: log::Level,
    line: Vec<u8>,
    tail: String,
}

impl Log {
    fn new(label: &str, level: log::Level) -> Self {
        Self {
            label: label.to_owned(),
            level,
            line: Vec::new(),
            tail: String::new(),
        }
    }

    fn add(&mut self, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
            self.line.extend_from_slice(piece);
            if piece.ends_with(b"\n") || self.line.len() > LOG_LINE_BYTES {
                self.flush();
            }
        }
    }

    /// Logs the current line, even if it is not complete.
    fn flush(&mut self) {
        if self.line.is_empty() {
            return;
        }
        let text = String::from_utf8_lossy(&self.line);
        let text: String = text
            .trim_end()
            .chars()
            .map(|c| {
                if c.is_control() && c != '\t' {
                    '\u{fffd}'
                } else {
                    c
                }
            })
            .collect();
        log::log!(self.level, "{}: {text}", self.label);
        self.tail.push_str(&text);
        self.tail.push('\n');
        let surplus = self.tail.len().saturating_sub(TAIL_BYTES);
        let start = (surplus..).find(|&index| self.tail.is_char_boundary(index));
        self.tail.drain(..start.unwrap_or(0));
        self.line.clear();
    }

    fn tail(&self) -> &str {
        self.tail.trim_end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_standard_error_are_joined_and_bounded() {
        let mut log = Log::new("x", log::Level::Info);
        log.add(b"one\ntw");
        assert_eq!(log.tail(), "one");
        log.add(b"o\x1b[2J\n");
        assert_eq!(log.tail(), "one\ntwo\u{fffd}[2J");
        log.add("é".repeat(TAIL_BYTES).as_bytes());
        log.flush();
        assert!(log.tail.len() <= TAIL_BYTES + 1, "{}", log.tail.len());
        assert!(log.tail().chars().all(|c| c == 'é'));
    }
}
