//! The host's side of a zygote, and of the single child that it has at a time.

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

/// The time limit of a zygote's reply, which usually takes a millisecond.
const REPLY_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a child that closed its socket may take to end.
const GRACE: Duration = Duration::from_millis(200);

/// A failure on the host's side, in words.
pub(super) type HostFailure = String;

/// A warm interpreter, which has done its imports and rehearsed its work. It forks one child per program.
/// Dropping this ends the interpreter and its child.
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
pub(super) enum ChildExit {
    /// By itself, with an exit code.
    Exited(i32),
    /// By a signal that the host did not send.
    Signalled(i32),
    /// The host killed it.
    KilledByHost,
}

impl Zygote {
    pub(super) fn new(control: OwnedFd, pidfd: OwnedFd) -> Self {
        Self {
            control,
            pidfd,
            child: None,
        }
    }

    /// Sends the filters, and waits until the zygote is warm and confined.
    pub(super) fn send_filters(
        &mut self,
        filters: Option<&Filters>,
        timeout: Duration,
    ) -> Result<(), HostFailure> {
        // The child's filter comes first, then the zygote's own filters. An empty filter ends the list.
        // Every message starts with a byte, because an empty message would mean the end of the stream.
        let child_filter = filters.map_or(&[][..], |filters| &filters.child);
        let zygote_filters = filters.map_or(&[][..], |filters| &filters.zygote);
        let end = Vec::new();
        for filter in [child_filter]
            .into_iter()
            .chain(zygote_filters.iter().map(Vec::as_slice))
            .chain([&end[..]])
        {
            let message = [b"f", filter].concat();
            rustix::net::send(&self.control, &message, SendFlags::NOSIGNAL)
                .map_err(|error| format!("it does not listen ({error})"))?;
        }
        match &self.receive(timeout)?.0[..] {
            b"R" => Ok(()),
            answer => Err(format!("it answered {answer:?}")),
        }
    }

    /// Forks a child that may use `cpu_secs` seconds of CPU time in total.
    pub(super) fn start_child(&mut self, cpu_secs: u64) -> Result<(), HostFailure> {
        debug_assert!(self.child.is_none());
        let (socket, child_socket) = socketpair(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )
        .map_err(|error| format!("no socket could be created ({error})"))?;
        // The child's end blocks, because the child does nothing but wait for frames.
        rustix::io::ioctl_fionbio(&child_socket, false)
            .map_err(|error| format!("a socket could not be set up ({error})"))?;
        self.request_fork(cpu_secs, &child_socket)?;
        drop(child_socket);

        let (message, descriptor) = self.receive(REPLY_TIMEOUT)?;
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

    fn request_fork(&self, cpu_secs: u64, socket: &OwnedFd) -> Result<(), HostFailure> {
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

    /// Waits for the byte that the child sends as soon as all its layers are in place. The child reads
    /// nothing before that.
    fn await_confinement(&mut self) -> Result<(), HostFailure> {
        let Some(child) = &mut self.child else {
            return Ok(());
        };
        let mut deadline = Instant::now() + REPLY_TIMEOUT;
        match child.channel.receive_byte(&mut deadline) {
            Ok(b'+') => Ok(()),
            answer => Err(format!(
                "a forked process could not be confined ({answer:?})"
            )),
        }
    }

    /// Receives a message of the zygote, and the descriptor that came with it.
    fn receive(&self, timeout: Duration) -> Result<(Vec<u8>, Option<OwnedFd>), HostFailure> {
        let deadline = Instant::now() + timeout;
        loop {
            let remaining = deadline.saturating_duration_since(Instant::now());
            match wait_for(&self.control, PollFlags::IN, remaining) {
                Ok(true) => break,
                Ok(false) if remaining.is_zero() => {
                    return Err("a zygote does not answer".to_owned());
                }
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

    /// Kills the child, if there is one, and waits until it is gone.
    pub(super) fn end_child(&mut self) -> Result<(), HostFailure> {
        let Some(child) = self.child.take() else {
            return Ok(());
        };
        child.kill();
        self.await_exit().map(drop)
    }

    /// Waits a little for a child that closed its socket, kills it if it does not end, and returns how it
    /// ended.
    pub(super) fn wait_for_child(&mut self) -> Result<ChildExit, HostFailure> {
        let Some(child) = self.child.take() else {
            return Err("there is no process to wait for".to_owned());
        };
        let ended_itself = wait_for(&child.pidfd, PollFlags::IN, GRACE).unwrap_or(false);
        if !ended_itself {
            child.kill();
        }
        let exit = self.await_exit()?;
        Ok(match exit {
            ChildExit::Signalled(libc::SIGKILL) if !ended_itself => ChildExit::KilledByHost,
            // This includes a child that ended by itself just before the kill.
            exit => exit,
        })
    }

    fn await_exit(&self) -> Result<ChildExit, HostFailure> {
        let (message, _) = self.receive(REPLY_TIMEOUT)?;
        let text = String::from_utf8_lossy(&message);
        let status = text.strip_prefix('S').and_then(|text| text.parse().ok());
        let status: i32 = status.ok_or_else(|| format!("a zygote answered {text:?}"))?;
        Ok(match libc::WIFSIGNALED(status) {
            true => ChildExit::Signalled(libc::WTERMSIG(status)),
            false => ChildExit::Exited(libc::WEXITSTATUS(status)),
        })
    }
}

impl Drop for Zygote {
    fn drop(&mut self) {
        // The child would die with the zygote too, but perhaps only after this function returns.
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
        // This fails only if the child is gone already.
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
    }

    /// The clock of the child's CPU time.
    pub(super) fn clock(&self) -> CpuClock {
        self.clock
    }
}
