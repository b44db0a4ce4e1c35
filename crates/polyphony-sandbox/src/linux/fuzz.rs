//! A way in for the fuzz targets: bytes of a child, read as the host reads them.

use std::{
    io::Write as _,
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

use super::{
    verdicts::Cause,
    wire::{Break, Channel, FRAME_LIMIT, pack, unpack},
};

/// Reads everything that a child sent before it closed its end, and panics if something does not hold. At
/// most 64 kB, which a socket holds.
#[doc(hidden)]
pub fn read_frames(sent: &[u8]) -> std::io::Result<()> {
    let (own, mut child) = UnixStream::pair()?;
    own.set_nonblocking(true)?;
    child.write_all(sent)?;
    drop(child);
    let mut channel = Channel::new(own.into());
    let mut soon = Instant::now() + Duration::from_secs(2);
    let mut left = sent.len();
    loop {
        match channel.receive(FRAME_LIMIT, &mut soon) {
            Ok(frame) => {
                left -= 5 + frame.payload.len();
                if let Some(fields) = unpack(&frame.payload) {
                    let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
                    assert_eq!(pack(&fields), frame.payload);
                }
                let (Ok(cause) | Err(cause)) = Cause::raised(&frame.payload);
                assert!(!cause.text.contains(char::is_control), "{cause:?}");
            }
            // Less than a frame is left, or something that is none.
            Err(Break::Closed) => break,
            Err(Break::Malformed(_)) => break,
            Err(Break::Late) => panic!("{left} bytes were there and did not come"),
        }
    }
    Ok(())
}
