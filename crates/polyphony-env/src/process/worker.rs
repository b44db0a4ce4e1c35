//! One running program and the pipes to it.
//!
//! A worker needs no threads: whoever waits for an answer also carries on what the program writes to
//! standard error. What it writes between two calls waits in its pipe until the next one.

use std::{
    io::{self, Read, Write},
    os::unix::process::CommandExt,
    process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::ioctl_fionbio,
    process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid},
};

/// How long a program may take to end once its standard input is closed.
const ENDING: Duration = Duration::from_secs(1);

/// How often a program that should end is looked at.
const LOOK: Duration = Duration::from_millis(5);

/// How much of what was last written to standard error is kept for messages.
const TAIL_BYTES: usize = 2000;

/// The longest line of standard error that is logged in one piece.
const LOG_LINE_BYTES: usize = 8192;

/// A running program. When it is dropped, nothing of its process group is left.
pub(super) struct Worker {
    child: Child,
    pid: Pid,
    stdin: Option<ChildStdin>,
    stdout: Option<ChildStdout>,
    stderr: Option<ChildStderr>,
    /// What came from standard output and has not been taken yet.
    received: Vec<u8>,
    log: Log,
}

/// Why a call was not answered.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The deadline passed; what came so far.
    Late(Vec<u8>),
    /// The answer is too large; its beginning.
    TooLarge(Vec<u8>),
    /// The program ended, and how.
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
    /// Starts a program in a process group of its own. `label` names it in the log.
    pub(super) fn start(mut command: Command, label: &str) -> io::Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()?;
        let worker = Self {
            pid: Pid::from_child(&child),
            stdin: child.stdin.take(),
            stdout: child.stdout.take(),
            stderr: child.stderr.take(),
            child,
            received: Vec::new(),
            log: Log::new(label),
        };
        // Whatever fails from here on ends the program, since the worker is dropped.
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

    /// Sends a line, and waits for the line that answers it.
    pub(super) fn exchange(
        &mut self,
        request: &[u8],
        deadline: Instant,
        limit: usize,
    ) -> Result<Vec<u8>, Trouble> {
        let mut unsent = request;
        let mut looked_at = 0;
        loop {
            let end = self.received[looked_at..]
                .iter()
                .position(|&byte| byte == b'\n');
            let length = end.map_or(self.received.len(), |end| looked_at + end);
            if length > limit {
                return Err(Trouble::TooLarge(std::mem::take(&mut self.received)));
            }
            if end.is_some() {
                let rest = self.received.split_off(length + 1);
                self.received.truncate(length);
                return Ok(std::mem::replace(&mut self.received, rest));
            }
            looked_at = length;
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

    /// Waits until something can be read, or sent where that is wanted; returns whether it can be sent.
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

    /// Sends as much as the pipe takes; returns whether the program still reads.
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
                    // What it still said explains why.
                    self.receive()?;
                    Ok(false)
                }
                _ => Err(error.into()),
            },
        }
    }

    /// Takes what the program has written; returns how many bytes that were.
    fn receive(&mut self) -> io::Result<usize> {
        let before = self.received.len();
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
        Ok(self.received.len() - before + written.len())
    }

    /// Takes all that a program left behind which has ended.
    fn drain(&mut self) {
        while matches!(self.receive(), Ok(1..)) {}
        self.received.clear();
    }

    /// Waits a little for a program that should end; returns whether it did.
    fn wait_for_end(&mut self, longest: Duration) -> bool {
        let deadline = Instant::now() + longest;
        loop {
            // Unread output would keep it from ending.
            let has_failed = self.wait(false, LOOK).is_err() || self.receive().is_err();
            self.received.clear();
            if self.has_ended() {
                self.drain();
                return true;
            }
            if has_failed || Instant::now() >= deadline {
                return false;
            }
            if self.stdout.is_none() && self.stderr.is_none() {
                std::thread::sleep(LOOK);
            }
        }
    }

    /// Whether it has ended. It stays in the process table, so that its group's number is not given to
    /// others before [`Worker::kill`].
    fn has_ended(&self) -> bool {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        !matches!(waitid(WaitId::Pid(self.pid), options), Ok(None))
    }

    /// How a program came to its end, in words.
    fn ending(&mut self) -> String {
        let has_ended = self.wait_for_end(ENDING);
        let how = match (has_ended, self.kill()) {
            (true, Some(status)) => status.to_string(),
            _ => "it closed its standard output".to_owned(),
        };
        self.log.flush();
        match self.log.tail() {
            "" => format!("{how}; it wrote nothing to standard error"),
            tail => format!("{how}; the last that it wrote to standard error is\n{tail}"),
        }
    }

    /// Ends what is left of the process group at once.
    pub(super) fn kill(&mut self) -> Option<std::process::ExitStatus> {
        self.stdin = None;
        // Nothing is left to kill where the group has ended.
        let _ = kill_process_group(self.pid, Signal::KILL);
        self.child.wait().ok()
    }

    /// Tells the program to end, without waiting for it.
    pub(super) fn close(&mut self) {
        self.stdin = None;
    }

    /// Ends the program; returns whether it ended by itself when its standard input was closed.
    pub(super) fn stop(mut self) -> bool {
        self.end()
    }

    fn end(&mut self) -> bool {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            self.drain();
            self.log.flush();
            return true;
        }
        self.close();
        let has_ended = self.wait_for_end(ENDING);
        self.kill();
        self.log.flush();
        has_ended
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.end();
    }
}

/// Adds what can be read without waiting; returns whether more may come.
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

/// What a program writes to standard error: logged line by line, and its end kept.
struct Log {
    label: String,
    line: Vec<u8>,
    tail: String,
}

impl Log {
    fn new(label: &str) -> Self {
        Self {
            label: label.to_owned(),
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

    /// Logs what has been written of a line.
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
        log::info!("{}: {text}", self.label);
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
    fn lines_of_standard_error_are_put_together_and_bounded() {
        let mut log = Log::new("x");
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
