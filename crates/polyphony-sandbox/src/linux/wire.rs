//! Frames between the host and a child: a kind, a length, a payload.
//!
//! The host never trusts a length and never waits without a deadline.

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

const HEAD: usize = 5;
/// The most that a frame of a child may hold.
pub(super) const FRAME_LIMIT: usize = 4 << 20;
/// Frames of tests and programs are larger; this is the most that a source may have.
pub(super) const SOURCE_LIMIT: usize = 16 << 20;

/// A frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) kind: u8,
    pub(super) payload: Vec<u8>,
}

/// Why there is no frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Break {
    /// The other side has closed its end.
    Closed,
    /// The time is up.
    Late,
    /// What came is no frame.
    Malformed(String),
}

/// Says how long to wait before asking again; `None` when the time is up.
pub(super) trait Patience {
    fn left(&mut self) -> Option<Duration>;
}

/// A moment on the clock.
impl Patience for Instant {
    fn left(&mut self) -> Option<Duration> {
        self.checked_duration_since(Instant::now())
            .filter(|left| !left.is_zero())
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
        patience: &mut dyn Patience,
    ) -> Result<(), Break> {
        let mut frame = Vec::with_capacity(HEAD + payload.len());
        frame.push(kind);
        frame.extend((payload.len() as u32).to_le_bytes());
        frame.extend(payload);
        let mut rest = &frame[..];
        while !rest.is_empty() {
            match rustix::net::send(&self.socket, rest, SendFlags::NOSIGNAL) {
                Ok(sent) => rest = &rest[sent..],
                Err(Errno::AGAIN) => self.wait(PollFlags::OUT, patience)?,
                Err(Errno::INTR) => {}
                Err(_) => return Err(Break::Closed),
            }
        }
        Ok(())
    }

    /// Receives a frame of at most `limit` bytes.
    pub(super) fn receive(
        &mut self,
        limit: usize,
        patience: &mut dyn Patience,
    ) -> Result<Frame, Break> {
        self.fill(HEAD, patience)?;
        let kind = self.inbox[0];
        let length: [u8; 4] = [1, 2, 3, 4].map(|at| self.inbox[at]);
        let length = u32::from_le_bytes(length) as usize;
        if length > limit {
            return Err(Break::Malformed(format!(
                "a frame of {length} bytes; at most {limit} are allowed"
            )));
        }
        self.fill(HEAD + length, patience)?;
        let rest = self.inbox.split_off(HEAD + length);
        let mut payload = std::mem::replace(&mut self.inbox, rest);
        payload.drain(..HEAD);
        Ok(Frame { kind, payload })
    }

    /// Reads a single byte.
    pub(super) fn receive_byte(&mut self, patience: &mut dyn Patience) -> Result<u8, Break> {
        self.fill(1, patience)?;
        Ok(self.inbox.remove(0))
    }

    fn fill(&mut self, length: usize, patience: &mut dyn Patience) -> Result<(), Break> {
        while self.inbox.len() < length {
            let mut piece = [0; 1 << 16];
            match rustix::net::recv(&self.socket, &mut piece[..], RecvFlags::empty()) {
                Ok((_, 0)) => return Err(Break::Closed),
                Ok((_, read)) => self.inbox.extend_from_slice(&piece[..read]),
                Err(Errno::AGAIN) => self.wait(PollFlags::IN, patience)?,
                Err(Errno::INTR) => {}
                Err(_) => return Err(Break::Closed),
            }
        }
        Ok(())
    }

    /// Waits until the socket is ready, or closed, or the time is up.
    fn wait(&self, event: PollFlags, patience: &mut dyn Patience) -> Result<(), Break> {
        loop {
            let left = patience.left().ok_or(Break::Late)?;
            if wait_for(&self.socket, event, left).unwrap_or(true) {
                return Ok(());
            }
        }
    }
}

/// Waits for an event on a descriptor; tells whether it came in time.
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

/// Texts, one after the other, each with its length.
pub(super) fn pack(fields: &[&str]) -> Vec<u8> {
    let mut payload = Vec::new();
    for field in fields {
        payload.extend((field.len() as u32).to_le_bytes());
        payload.extend(field.as_bytes());
    }
    payload
}

/// The texts of a payload; `None` where it is not made of texts.
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
        let (own, other) = UnixStream::pair().unwrap();
        own.set_nonblocking(true).unwrap();
        (Channel::new(own.into()), other)
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    #[test]
    fn frames_come_as_they_were_sent_however_they_are_cut() {
        let (mut channel, mut other) = pair();
        let bytes = b"A\x03\0\0\0oneB\0\0\0\0C\x02\0\0\0ab";
        let writer = thread::spawn(move || {
            for byte in bytes {
                other.write_all(&[*byte]).unwrap();
            }
        });
        for (kind, payload) in [(b'A', &b"one"[..]), (b'B', b""), (b'C', b"ab")] {
            let frame = channel.receive(3, &mut soon()).unwrap();
            assert_eq!((frame.kind, &frame.payload[..]), (kind, payload));
        }
        assert_eq!(channel.receive(3, &mut soon()), Err(Break::Closed));
        writer.join().unwrap();
    }

    #[test]
    fn a_frame_that_is_larger_than_a_socket_holds_is_sent_whole() {
        let (mut channel, other) = pair();
        other.set_nonblocking(true).unwrap();
        let payload = vec![7; 3 << 20];
        let expected = payload.clone();
        let reader = thread::spawn(move || {
            Channel::new(other.into())
                .receive(4 << 20, &mut soon())
                .unwrap()
        });
        channel.send(b'L', &payload, &mut soon()).unwrap();
        assert_eq!(reader.join().unwrap().payload, expected);
    }

    #[test]
    fn what_is_no_frame_or_comes_too_late_is_told_apart() {
        let (mut channel, mut other) = pair();
        other.write_all(b"R\xff\xff\xff\xff").unwrap();
        let broken = channel.receive(FRAME_LIMIT, &mut soon());
        assert!(matches!(broken, Err(Break::Malformed(_))), "{broken:?}");

        let (mut channel, mut other) = pair();
        other.write_all(b"R\x09\0\0\0half").unwrap();
        let mut past = Instant::now();
        assert_eq!(channel.receive(FRAME_LIMIT, &mut past), Err(Break::Late));
        drop(other);
        assert_eq!(
            channel.receive(FRAME_LIMIT, &mut soon()),
            Err(Break::Closed)
        );
        assert_eq!(channel.send(b'C', b"x", &mut soon()), Err(Break::Closed));
    }

    #[test]
    fn texts_are_unpacked_as_they_were_packed_and_nothing_else_is() {
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
