//! Frames between the host and a child. A frame has a kind, a length and a payload.
//!
//! The host never trusts a length and never waits without a time limit.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::{RecvFlags, SendFlags},
};

/// The bytes before a payload: one for the kind, four for the length.
const HEAD: usize = 5;
/// The largest frame of a child, in bytes.
pub(super) const FRAME_LIMIT: usize = 4 << 20;
/// The largest source, in bytes. Frames with tests or programs may be larger than those of children.
pub(super) const SOURCE_LIMIT: usize = 16 << 20;

/// The kinds of frames. `src/python` has them as literals.
pub(super) mod kind {
    /// Host to judge: the tests' setup and source, and the entry point.
    pub(in crate::linux) const TESTS: u8 = b'J';
    /// Judge to host: the sources of the asserts. The tests are ready.
    pub(in crate::linux) const ASSERTS: u8 = b'P';
    /// Judge to host: why the tests cannot be run.
    pub(in crate::linux) const UNUSABLE_TESTS: u8 = b'B';
    /// Host to judge: run the tests.
    pub(in crate::linux) const START: u8 = b'G';
    /// Judge to host: the index of an assert that begins.
    pub(in crate::linux) const ASSERT_ENTERED: u8 = b'A';
    /// Judge to host: the index of an assert that has ended, and its outcome.
    pub(in crate::linux) const ASSERT_LEFT: u8 = b'Z';
    /// Judge to host: the same for an assert inside another assert. The outer assert continues.
    pub(in crate::linux) const NESTED_OUTCOME: u8 = b'N';
    /// Judge to host: how the tests have ended.
    pub(in crate::linux) const DONE: u8 = b'D';
    /// Judge to host to solver: a call, with its arguments.
    pub(in crate::linux) const CALL: u8 = b'C';
    /// Solver to host to judge: the value that a call returned.
    pub(in crate::linux) const RETURNED: u8 = b'R';
    /// Solver to host to judge: the exception that a call, or loading the program, raised.
    pub(in crate::linux) const RAISED: u8 = b'X';
    /// Host to judge: why the solver is gone.
    pub(in crate::linux) const SOLVER_GONE: u8 = b'K';
    /// Host to solver: the program's source and its entry point.
    pub(in crate::linux) const LOAD: u8 = b'L';
    /// Solver to host: the program is loaded.
    pub(in crate::linux) const LOADED: u8 = b'O';
    /// Solver to host: line, column and message of a syntax error.
    pub(in crate::linux) const SYNTAX_ERROR: u8 = b'E';
}

/// A frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) kind: u8,
    pub(super) payload: Vec<u8>,
}

/// Why a frame could not be sent or received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ChannelError {
    /// The other side has closed its end.
    Closed,
    /// The time limit was reached.
    TimedOut,
    /// The bytes are not a frame.
    Malformed(String),
}

/// A limit on waiting.
pub(super) trait TimeLimit {
    /// How long to wait before asking again; `None` if the time is up.
    fn remaining(&mut self) -> Option<Duration>;
}

/// Waits until this moment.
impl TimeLimit for Instant {
    fn remaining(&mut self) -> Option<Duration> {
        self.checked_duration_since(Instant::now())
            .filter(|remaining| !remaining.is_zero())
    }
}

/// The host's end of a child's socket.
#[derive(Debug)]
pub(super) struct Channel {
    socket: OwnedFd,
    inbox: Vec<u8>,
}

impl Channel {
    /// A channel over a socket that does not block.
    pub(super) fn new(socket: OwnedFd) -> Self {
        Self {
            socket,
            inbox: Vec::new(),
        }
    }

    /// Sends a frame.
    pub(super) fn send(
        &mut self,
        kind: u8,
        payload: &[u8],
        time_limit: &mut dyn TimeLimit,
    ) -> Result<(), ChannelError> {
        let mut frame = Vec::with_capacity(HEAD + payload.len());
        frame.push(kind);
        frame.extend((payload.len() as u32).to_le_bytes());
        frame.extend(payload);
        let mut unsent = &frame[..];
        while !unsent.is_empty() {
            match rustix::net::send(&self.socket, unsent, SendFlags::NOSIGNAL) {
                Ok(count) => unsent = &unsent[count..],
                Err(Errno::AGAIN) => self.wait(PollFlags::OUT, time_limit)?,
                Err(Errno::INTR) => {}
                Err(_) => return Err(ChannelError::Closed),
            }
        }
        Ok(())
    }

    /// Receives a frame of at most `limit` bytes.
    pub(super) fn receive(
        &mut self,
        limit: usize,
        time_limit: &mut dyn TimeLimit,
    ) -> Result<Frame, ChannelError> {
        self.fill(HEAD, time_limit)?;
        let kind = self.inbox[0];
        let length: [u8; 4] = [1, 2, 3, 4].map(|index| self.inbox[index]);
        let length = u32::from_le_bytes(length) as usize;
        if length > limit {
            return Err(ChannelError::Malformed(format!(
                "a frame of {length} bytes; at most {limit} are allowed"
            )));
        }
        self.fill(HEAD + length, time_limit)?;
        let rest = self.inbox.split_off(HEAD + length);
        let mut payload = std::mem::replace(&mut self.inbox, rest);
        payload.drain(..HEAD);
        Ok(Frame { kind, payload })
    }

    /// Reads a single byte.
    pub(super) fn receive_byte(
        &mut self,
        time_limit: &mut dyn TimeLimit,
    ) -> Result<u8, ChannelError> {
        self.fill(1, time_limit)?;
        Ok(self.inbox.remove(0))
    }

    fn fill(&mut self, length: usize, time_limit: &mut dyn TimeLimit) -> Result<(), ChannelError> {
        while self.inbox.len() < length {
            let mut piece = [0; 1 << 16];
            match rustix::net::recv(&self.socket, &mut piece[..], RecvFlags::empty()) {
                Ok((_, 0)) => return Err(ChannelError::Closed),
                Ok((_, count)) => self.inbox.extend_from_slice(&piece[..count]),
                Err(Errno::AGAIN) => self.wait(PollFlags::IN, time_limit)?,
                Err(Errno::INTR) => {}
                Err(_) => return Err(ChannelError::Closed),
            }
        }
        Ok(())
    }

    /// Waits until the socket is ready or closed, or the time is up.
    fn wait(&self, event: PollFlags, time_limit: &mut dyn TimeLimit) -> Result<(), ChannelError> {
        loop {
            let remaining = time_limit.remaining().ok_or(ChannelError::TimedOut)?;
            if wait_for(&self.socket, event, remaining).unwrap_or(true) {
                return Ok(());
            }
        }
    }
}

/// Waits for an event on a descriptor; returns whether it came in time.
pub(super) fn wait_for(
    descriptor: impl AsFd,
    event: PollFlags,
    time: Duration,
) -> io::Result<bool> {
    let timeout = Timespec::try_from(time).map_err(io::Error::other)?;
    let mut ready = [PollFd::from_borrowed_fd(descriptor.as_fd(), event)];
    match poll(&mut ready, Some(&timeout)) {
        Ok(count) => Ok(count > 0),
        Err(Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Packs texts one after the other, each with its length.
pub(super) fn pack(fields: &[&str]) -> Vec<u8> {
    let mut payload = Vec::new();
    for field in fields {
        payload.extend((field.len() as u32).to_le_bytes());
        payload.extend(field.as_bytes());
    }
    payload
}

/// The texts of a payload; `None` if it does not consist of texts.
pub(super) fn unpack(payload: &[u8]) -> Option<Vec<String>> {
    let mut fields = Vec::new();
    let mut rest = payload;
    while !rest.is_empty() {
        let (length, after) = rest.split_first_chunk()?;
        let (field, after) = after.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        fields.push(String::from_utf8(field.to_vec()).ok()?);
        rest = after;
    }
    Some(fields)
}

#[cfg(test)]
mod tests {
    use std::{io::Write, os::unix::net::UnixStream, thread};

    use super::*;

    fn pair() -> (Channel, UnixStream) {
        let (host, child) = UnixStream::pair().unwrap();
        host.set_nonblocking(true).unwrap();
        (Channel::new(host.into()), child)
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    #[test]
    fn frames_arrive_intact_however_they_are_split() {
        let (mut channel, mut child) = pair();
        let bytes = b"A\x03\0\0\0oneB\0\0\0\0C\x02\0\0\0ab";
        let writer = thread::spawn(move || {
            for byte in bytes {
                child.write_all(&[*byte]).unwrap();
            }
        });
        for (kind, payload) in [(b'A', &b"one"[..]), (b'B', b""), (b'C', b"ab")] {
            let frame = channel.receive(3, &mut soon()).unwrap();
            assert_eq!((frame.kind, &frame.payload[..]), (kind, payload));
        }
        assert_eq!(channel.receive(3, &mut soon()), Err(ChannelError::Closed));
        writer.join().unwrap();
    }

    #[test]
    fn a_frame_larger_than_the_socket_buffer_is_sent_completely() {
        let (mut channel, child) = pair();
        child.set_nonblocking(true).unwrap();
        let payload = vec![7; 3 << 20];
        let expected = payload.clone();
        let reader = thread::spawn(move || {
            Channel::new(child.into())
                .receive(4 << 20, &mut soon())
                .unwrap()
        });
        channel.send(b'L', &payload, &mut soon()).unwrap();
        assert_eq!(reader.join().unwrap().payload, expected);
    }

    #[test]
    fn malformed_late_and_closed_channels_are_distinguished() {
        let (mut channel, mut child) = pair();
        child.write_all(b"R\xff\xff\xff\xff").unwrap();
        let result = channel.receive(FRAME_LIMIT, &mut soon());
        assert!(
            matches!(result, Err(ChannelError::Malformed(_))),
            "{result:?}"
        );

        let (mut channel, mut child) = pair();
        child.write_all(b"R\x09\0\0\0half").unwrap();
        let mut past = Instant::now();
        assert_eq!(
            channel.receive(FRAME_LIMIT, &mut past),
            Err(ChannelError::TimedOut)
        );
        drop(child);
        assert_eq!(
            channel.receive(FRAME_LIMIT, &mut soon()),
            Err(ChannelError::Closed)
        );
        assert_eq!(
            channel.send(b'C', b"x", &mut soon()),
            Err(ChannelError::Closed)
        );
    }

    #[test]
    fn only_packed_texts_can_be_unpacked() {
        for fields in [&[][..], &[""], &["a", "", "\u{e9}\0"]] {
            assert_eq!(unpack(&pack(fields)).unwrap(), fields);
        }
        let rows: [&[u8]; 4] = [
            b"\x01\0\0",
            b"\x02\0\0\0a",
            b"\xff\xff\xff\xffa",
            b"\x01\0\0\0\xff",
        ];
        for payload in rows {
            assert_eq!(unpack(payload), None, "{payload:?}");
        }
    }
}
