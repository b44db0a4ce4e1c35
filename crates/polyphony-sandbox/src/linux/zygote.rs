//! The host's side of a zygote and of the one child that it has at a time.

use std::{
    mem::MaybeUninit,
    os::fd::{AsFd, OwnedFd},
    time::{Duration, Instant},
};

use rustix::{
    event::PollFlags,
    io::Errno,
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
    },
    process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid},
};

use super::{
    seccomp::Filters,
    stopwatch::CpuClock,
    wire::{Channel, wait_for},
};

/// How long a zygote may take for what takes it a millisecond.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a child that closed its socket may take to be gone.
const GRACE: Duration = Duration::from_millis(200);

/// What went wrong on the host's side, in words.
pub(super) type HostFailure = String;

/// A warm interpreter. It is ended when this is dropped, and its child with it.
#[derive(Debug)]
pub(super) struct Zygote {
    control: OwnedFd,
    pidfd: OwnedFd,
    child: Option<Child>,
}

/// A confined process for one program.
#[derive(Debug)]
pub(super) struct Child {
    pub(super) channel: Channel,
    pidfd: OwnedFd,
    clock: CpuClock,
}

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// By itself, with an exit code.
    Exited(i32),
    /// By a signal that this side did not send.
    Signalled(i32),
    /// It was killed by this side.
    Killed,
}

impl Zygote {
    pub(super) fn new(control: OwnedFd, pidfd: OwnedFd) -> Self {
        Self {
            control,
            pidfd,
            child: None,
        }
    }

    /// Hands over the filters, and waits until it is warm and confined.
    pub(super) fn greet(
        &mut self,
        filters: Option<&Filters>,
        patience: Duration,
    ) -> Result<(), HostFailure> {
        // Each with a byte before it, since an empty message would read like the end.
        let child = filters.map_or(&[][..], |filters| &filters.child);
        let own = filters.map_or(&[][..], |filters| &filters.zygote);
        let end = Vec::new();
        for filter in [child]
            .into_iter()
            .chain(own.iter().map(Vec::as_slice))
            .chain([&end[..]])
        {
            let message = [b"f", filter].concat();
            rustix::net::send(&self.control, &message, SendFlags::NOSIGNAL)
                .map_err(|error| format!("it does not listen ({error})"))?;
        }
        match &self.hear(patience)?.0[..] {
            b"R" => Ok(()),
            other => Err(format!("it answered {other:?}")),
        }
    }

    /// Forks a child that may use so many seconds of processor time in all.
    pub(super) fn start_child(&mut self, cpu_secs: u64) -> Result<(), HostFailure> {
        debug_assert!(self.child.is_none());
        let (socket, its_socket) = socketpair(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )
        .map_err(|error| format!("no socket could be made ({error})"))?;
        // The child's end blocks: it has nothing else to do than to wait.
        rustix::io::ioctl_fionbio(&its_socket, false)
            .map_err(|error| format!("a socket could not be set up ({error})"))?;
        self.ask(cpu_secs, &its_socket)?;
        drop(its_socket);

        let (message, descriptor) = self.hear(PATIENCE)?;
        let pidfd = match (message.first(), descriptor) {
            (Some(b'P'), Some(pidfd)) => pidfd,
            _ => {
                let message = String::from_utf8_lossy(&message).into_owned();
                return Err(format!("a zygote could not fork ({message})"));
            }
        };
        let clock = CpuClock::of(&pidfd)
            .map_err(|error| format!("a forked process cannot be timed ({error})"))?;
        self.child = Some(Child {
            channel: Channel::new(socket),
            pidfd,
            clock,
        });
        self.await_confinement()
    }

    fn ask(&self, cpu_secs: u64, socket: &OwnedFd) -> Result<(), HostFailure> {
        let request = cpu_secs.to_string();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let sockets = [socket.as_fd()];
        ancillary.push(SendAncillaryMessage::ScmRights(&sockets));
        let bytes = [std::io::IoSlice::new(request.as_bytes())];
        sendmsg(&self.control, &bytes, &mut ancillary, SendFlags::NOSIGNAL)
            .map_err(|error| format!("a zygote is gone ({error})"))?;
        Ok(())
    }

    /// The child says one byte before it reads anything: by then all its layers are in place.
    fn await_confinement(&mut self) -> Result<(), HostFailure> {
        let Some(child) = &mut self.child else {
            return Ok(());
        };
        match child.channel.receive_byte(&mut (Instant::now() + PATIENCE)) {
            Ok(b'+') => Ok(()),
            other => Err(format!(
                "a forked process could not be confined ({other:?})"
            )),
        }
    }

    /// A message of the zygote, and the descriptor that came with it.
    fn hear(&self, patience: Duration) -> Result<(Vec<u8>, Option<OwnedFd>), HostFailure> {
        let end = Instant::now() + patience;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match wait_for(&self.control, PollFlags::IN, left) {
                Ok(true) => break,
                Ok(false) if left.is_zero() => return Err("a zygote does not answer".to_owned()),
                Ok(false) => {}
                Err(error) => return Err(format!("a zygote cannot be waited for ({error})")),
            }
        }
        let mut message = [0; 64];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received = recvmsg(
            &self.control,
            &mut [std::io::IoSliceMut::new(&mut message)],
            &mut ancillary,
            RecvFlags::CMSG_CLOEXEC,
        )
        .map_err(|error| format!("a zygote is gone ({error})"))?;
        if received.bytes == 0 {
            return Err("a zygote has ended".to_owned());
        }
        let descriptor = ancillary.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        });
        Ok((message[..received.bytes].to_vec(), descriptor))
    }

    /// The child, if there is one.
    pub(super) fn child(&mut self) -> Option<&mut Child> {
        self.child.as_mut()
    }

    /// Kills the child, if there is one, and waits until nothing of it is left.
    pub(super) fn end_child(&mut self) -> Result<(), HostFailure> {
        let Some(child) = self.child.take() else {
            return Ok(());
        };
        child.kill();
        self.await_end().map(drop)
    }

    /// Waits a little for a child that closed its socket, then kills it, and tells how it ended.
    pub(super) fn let_child_end(&mut self) -> Result<End, HostFailure> {
        let Some(child) = self.child.take() else {
            return Err("a process that was to be waited for does not exist".to_owned());
        };
        let went = wait_for(&child.pidfd, PollFlags::IN, GRACE).unwrap_or(false);
        if !went {
            child.kill();
        }
        let end = self.await_end()?;
        Ok(match end {
            // It may have been on its way while its end came from here.
            End::Signalled(libc::SIGKILL) if !went => End::Killed,
            end => end,
        })
    }

    fn await_end(&self) -> Result<End, HostFailure> {
        let (message, _) = self.hear(PATIENCE)?;
        let text = String::from_utf8_lossy(&message);
        let status = text.strip_prefix('S').and_then(|text| text.parse().ok());
        let status: i32 = status.ok_or_else(|| format!("a zygote answered {text:?}"))?;
        Ok(match libc::WIFSIGNALED(status) {
            true => End::Signalled(libc::WTERMSIG(status)),
            false => End::Exited(libc::WEXITSTATUS(status)),
        })
    }
}

impl Drop for Zygote {
    fn drop(&mut self) {
        // Its child would die with it, but not before this returns.
        if let Some(child) = self.child.take() {
            child.kill();
        }
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
        while let Err(Errno::INTR) =
            waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED)
        {}
    }
}

impl Child {
    fn kill(&self) {
        // Fails only where it is gone already.
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
    }

    /// The clock of its processor time.
    pub(super) fn clock(&self) -> CpuClock {
        self.clock
    }
}
