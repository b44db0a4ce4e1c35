//! One running program and the pipes to it.
//!
//! A worker needs no threads: whoever waits for an answer also logs what the program writes to standard
//! error. What it writes between two calls stays in the pipe until the next call.

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

/// How long a program may take to end once its standard input is closed.
const ENDING: Duration = Duration::from_secs(1);

/// The interval at which a program that should end is checked.
const CHECK_INTERVAL: Duration = Duration::from_millis(5);

/// How much of the end of standard error is kept for messages.
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
    /// What was read from standard output and belongs to no answer yet.
    received: Vec<u8>,
    log: Log,
}

/// Why a call was not answered.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The deadline passed. Holds what was received until then.
    Late(Vec<u8>),
    /// The answer is too large. Holds its beginning.
    TooLarge(Vec<u8>),
    /// The program ended. Describes how.
    Ended(String),
    /// The pipes cannot be used.
    Pipe(io::Error),
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Pipe(error)
    }
}

impl From<rustix::io::Errno> for Trouble {
    fn from(error: rustix::io::Errno) -> Self {
        Self::Pipe(error.into())
    }
}

impl Worker {
    /// Starts a program in a process group of its own. What it writes to standard error is logged at
    /// `level`, where `label` names it.
    pub(super) fn start(mut command: Command, label: &str, level: log::Level) -> io::Result<Self> {
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let (group, mut child) = Group::spawn(&mut command, ENDING)?;
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

    /// The end of what it has written to standard error.
    pub(super) fn standard_error(&self) -> &str {
        self.log.tail()
    }

    /// Sends a line and waits for the line that answers it.
    pub(super) fn exchange(
        &mut self,
        request: &[u8],
        deadline: Instant,
        limit: usize,
    ) -> Result<Vec<u8>, Trouble> {
        let mut unsent = request;
        let mut searched = 0;
        loop {
            let end = self.received[searched..]
                .iter()
                .position(|&byte| byte == b'\n');
            let length = end.map_or(self.received.len(), |end| searched + end);
            if length > limit {
                return Err(Trouble::TooLarge(std::mem::take(&mut self.received)));
            }
            if end.is_some() {
                let rest = self.received.split_off(length + 1);
                self.received.truncate(length);
                return Ok(std::mem::replace(&mut self.received, rest));
            }
            searched = length;
            if self.stdout.is_none() {
                return Err(Trouble::Ended(self.ending()));
            }
            let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                return Err(Trouble::Late(std::mem::take(&mut self.received)));
            };
            let can_send = self.wait(!unsent.is_empty(), left)?;
            if can_send && !self.send(&mut unsent)? {
                return Err(Trouble::Ended(self.ending()));
            }
            self.receive()?;
        }
    }

    /// Waits until the program can be read from or, if wanted, written to; returns whether it can be
    /// written to.
    fn wait(&self, wants_to_send: bool, longest: Duration) -> Result<bool, Trouble> {
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
            tv_sec: i64::try_from(longest.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: longest.subsec_nanos().into(),
        };
        match poll(&mut pipes, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(pipes[..sends].iter().any(|pipe| !pipe.revents().is_empty()))
    }

    /// Sends as much as the pipe accepts; returns whether the program still reads.
    fn send(&mut self, unsent: &mut &[u8]) -> Result<bool, Trouble> {
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
                    // The last that it wrote may explain why.
                    self.receive()?;
                    Ok(false)
                }
                _ => Err(error.into()),
            },
        }
    }

    /// Reads what the program has written.
    fn receive(&mut self) -> io::Result<()> {
        if let Some(stdout) = &mut self.stdout
            && !read_available(stdout, &mut self.received)?
        {
            self.stdout = None;
        }
        let mut written = Vec::new();
        if let Some(stderr) = &mut self.stderr
            && !read_available(stderr, &mut written)?
        {
            self.stderr = None;
        }
        self.log.add(&written);
        Ok(())
    }

    /// Waits a little for a program that should end; returns whether it did.
    fn wait_for_end(&mut self) -> bool {
        let deadline = Instant::now() + ENDING;
        while matches!(self.child.try_wait(), Ok(None)) {
            // Unread output would keep it from ending.
            let has_failed = self.wait(false, CHECK_INTERVAL).is_err() || self.receive().is_err();
            self.received.clear();
            if has_failed || Instant::now() >= deadline {
                return false;
            }
        }
        true
    }

    /// Describes how a program ended that no longer answers.
    fn ending(&mut self) -> String {
        let has_ended = self.wait_for_end();
        let how = match (has_ended, self.kill()) {
            (true, Some(status)) => status.to_string(),
            _ => "it closed its standard output".to_owned(),
        };
        match self.log.tail() {
            "" => format!("{how}; it wrote nothing to standard error"),
            tail => format!("{how}; its standard error ended with\n{tail}"),
        }
    }

    /// Kills the program and the rest of its group at once, and logs the last that it wrote.
    pub(super) fn kill(&mut self) -> Option<ExitStatus> {
        self.close();
        self.group.kill();
        // It may have left its group.
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

/// Appends what can be read without waiting; returns whether more may come.
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

/// Logs what a program writes to standard error line by line, and keeps the end of it.
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

    fn add(&mut self, written: &[u8]) {
        for piece in written.split_inclusive(|&byte| byte == b'\n') {
            self.line.extend_from_slice(piece);
            if piece.ends_with(b"\n") || self.line.len() > LOG_LINE_BYTES {
                self.flush();
            }
        }
    }

    /// Logs the line as far as it was written.
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
        let start = (surplus..).find(|&at| self.tail.is_char_boundary(at));
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
