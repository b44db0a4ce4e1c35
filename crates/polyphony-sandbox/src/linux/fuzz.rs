//! An entry point for the fuzz targets: reads a child's bytes like the host does.

use std::{
    io::Write as _,
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

use super::{
    verdicts::Cause,
    wire::{Channel, ChannelError, FRAME_LIMIT, pack, unpack},
};

/// Reads everything that a child sent before it closed its end, and panics if the host misreads it or
/// would show control characters. Takes at most 64 kB, which is what a socket can buffer.
#[doc(hidden)]
pub fn read_frames(bytes: &[u8]) -> std::io::Result<()> {
    let (host, mut child) = UnixStream::pair()?;
    host.set_nonblocking(true)?;
    child.write_all(bytes)?;
    drop(child);
    let mut channel = Channel::new(host.into());
    let mut deadline = Instant::now() + Duration::from_secs(2);
    let mut unread = bytes.len();
    loop {
        match channel.receive(FRAME_LIMIT, &mut deadline) {
            Ok(frame) => {
                unread -= 5 + frame.payload.len();
                if let Some(fields) = unpack(&frame.payload) {
                    let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
                    assert_eq!(pack(&fields), frame.payload);
                }
                let (Ok(cause) | Err(cause)) = Cause::raised(&frame.payload);
                assert!(!cause.text.contains(char::is_control), "{cause:?}");
            }
            // The remaining bytes are an incomplete frame, or not a frame.
            Err(ChannelError::Closed) => break,
            Err(ChannelError::Malformed(_)) => break,
            Err(ChannelError::TimedOut) => panic!("{unread} bytes were sent but not received"),
        }
    }
    Ok(())
}
