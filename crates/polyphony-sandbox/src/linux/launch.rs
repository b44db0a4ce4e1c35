//! Starts a zygote: prepares everything, clones a process, writes the user map, and waits until the
//! interpreter has started.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::{AddressFamily, SocketFlags, SocketType, socketpair},
    pipe::{PipeFlags, pipe_with},
    process::{Pid, PidfdFlags, Signal, WaitOptions, geteuid, kill_process, pidfd_open, waitpid},
};

use super::{
    enter::{self, Entry, Pointers, Step},
    interpreter::Installation,
    landlock,
    layers::{Layer, Layers},
    plan::{self, NOBODY, Plan, Role},
    raw, seccomp,
    zygote::Zygote,
};
use crate::{Limits, Tier};

/// The time limit for a zygote's start.
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// Why a zygote did not start: the failed step, and the system's error.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{step} failed: {reason}")]
pub(super) struct LaunchError {
    pub(super) step: String,
    pub(super) reason: String,
}

impl LaunchError {
    fn new(step: &str, reason: impl ToString) -> Self {
        Self {
            step: step.to_owned(),
            reason: reason.to_string(),
        }
    }

    fn at(step: &'static str) -> impl Fn(io::Error) -> Self {
        move |error| Self::new(step, error)
    }
}

/// Starts the zygotes of a pool. What they need is prepared once for all of them.
pub(super) struct Launcher {
    /// The entries of solvers and of judges.
    entries: [Entry; 2],
    /// The flags of `clone`.
    namespaces: i32,
    filters: Option<seccomp::Filters>,
    /// Kept open, because the entries refer to them by number.
    _open: (File, Option<OwnedFd>),
}

impl Launcher {
    /// Prepares what the zygotes of a pool need.
    ///
    /// # Errors
    ///
    /// The step that failed.
    pub(super) fn new(
        installation: &Installation,
        limits: &Limits,
        layers: &Layers,
    ) -> Result<Self, LaunchError> {
        let null = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/null")
            .map_err(LaunchError::at("opening /dev/null"))?;
        let ruleset = if layers.contain(Layer::Landlock) {
            let rules = landlock::ruleset(installation);
            Some(rules.map_err(|reason| LaunchError::new("preparing Landlock rules", reason))?)
        } else {
            None
        };
        let filters = if layers.contain(Layer::Seccomp) {
            let filters = seccomp::filters();
            Some(filters.map_err(|reason| LaunchError::new("building seccomp filters", reason))?)
        } else {
            None
        };
        let plan = Plan {
            installation,
            limits,
            layers,
            identity: plan::identity(installation, layers),
            null: &null,
            ruleset: ruleset.as_ref(),
        };
        let entry = |role| {
            let step = "preparing the interpreter's files";
            plan::prepare_entry(&plan, role).map_err(LaunchError::at(step))
        };
        let entries = [entry(Role::Solver)?, entry(Role::Judge)?];
        Ok(Self {
            entries,
            namespaces: namespaces(layers),
            filters,
            _open: (null, ruleset),
        })
    }

    /// Waits until a started zygote is warm and has its filters.
    ///
    /// # Errors
    ///
    /// If the zygote reports a failure or does not answer.
    pub(super) fn warm(&self, mut zygote: Zygote) -> Result<Zygote, LaunchError> {
        zygote
            .send_filters(self.filters.as_ref(), START_TIMEOUT)
            .map_err(|failure| LaunchError::new("confining the interpreter", failure))?;
        Ok(zygote)
    }

    /// Starts a zygote, which dies with the calling thread.
    ///
    /// # Errors
    ///
    /// The step that failed.
    pub(super) fn start(&self, role: Role) -> Result<Zygote, LaunchError> {
        let entry = &self.entries[match role {
            Role::Solver => 0,
            Role::Judge => 1,
        }];
        let failed =
            |error: rustix::io::Errno| LaunchError::new("creating sockets and pipes", error);
        let (control, child_control) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .map_err(failed)?;
        let (child_go, go) = pipe_with(PipeFlags::CLOEXEC).map_err(failed)?;
        let (report, child_report) = pipe_with(PipeFlags::CLOEXEC).map_err(failed)?;
        let pointers = Pointers::of(entry);

        // SAFETY: the child only runs `enter`, which only makes system calls.
        let cloned = unsafe { raw::fork_into(self.namespaces) };
        let pid = match cloned {
            // SAFETY: this is the process that was cloned for it, and `pointers` belongs to `entry`.
            Ok(0) => unsafe {
                enter::enter(
                    entry,
                    &pointers,
                    child_control.as_raw_fd(),
                    [child_go.as_raw_fd(), go.as_raw_fd()],
                    child_report.as_raw_fd(),
                )
            },
            Ok(pid) => pid,
            Err(error) => return Err(clone_failed(self.namespaces, error)),
        };
        drop((child_control, child_go, child_report));
        let pid = Pid::from_raw(pid)
            .ok_or_else(|| LaunchError::new("cloning a process", "it has no number"))?;
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).map_err(|error| {
            let _ = kill_process(pid, Signal::KILL);
            let _ = waitpid(Some(pid), WaitOptions::empty());
            LaunchError::new("watching the process", error)
        })?;
        // From here on the zygote's drop ends and reaps the process, wherever this function returns.
        let zygote = Zygote::new(control, pidfd);
        if self.namespaces & libc::CLONE_NEWUSER != 0 {
            write_user_map(pid).map_err(LaunchError::at("writing the user map"))?;
        }
        rustix::io::write(&go, b"+").map_err(|error| LaunchError::new("starting", error))?;
        await_start(report)?;
        Ok(zygote)
    }
}

fn clone_failed(namespaces: i32, error: raw::Errno) -> LaunchError {
    let step = if namespaces == 0 {
        "cloning a process"
    } else {
        "cloning a process into new namespaces"
    };
    LaunchError::new(step, io::Error::from_raw_os_error(error.0))
}

/// Waits until the process has become the interpreter, or returns the step that failed.
fn await_start(report: OwnedFd) -> Result<(), LaunchError> {
    let mut report = File::from(report);
    let deadline = Instant::now() + START_TIMEOUT;
    let mut message = Vec::new();
    loop {
        let remaining = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(remaining)
            .map_err(|error| LaunchError::new("waiting for the process", error))?;
        let mut ready = [PollFd::from_borrowed_fd(report.as_fd(), PollFlags::IN)];
        match poll(&mut ready, Some(&timeout)) {
            Ok(0) => return Err(LaunchError::new("waiting for the process", "it hangs")),
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(LaunchError::new("waiting for the process", error)),
        }
        let mut piece = [0; 8];
        let length = report
            .read(&mut piece)
            .map_err(LaunchError::at("waiting for the process"))?;
        if length == 0 {
            break;
        }
        message.extend_from_slice(&piece[..length]);
    }
    // If there is no message, execve has closed the pipe, and the interpreter has started.
    let [step, number @ ..] = &message[..] else {
        return Ok(());
    };
    let step = Step::of(*step).map_or("an unknown step", Step::description);
    let number = number.try_into().map_or(0, i32::from_le_bytes);
    Err(LaunchError::new(step, io::Error::from_raw_os_error(number)))
}

fn namespaces(layers: &Layers) -> i32 {
    let mut flags = 0;
    if layers.contain(Layer::Namespaces) {
        flags |= libc::CLONE_NEWUSER
            | libc::CLONE_NEWPID
            | libc::CLONE_NEWNET
            | libc::CLONE_NEWIPC
            | libc::CLONE_NEWUTS
            | libc::CLONE_NEWCGROUP;
    }
    if layers.contain(Layer::Root) {
        flags |= libc::CLONE_NEWUSER | libc::CLONE_NEWNS;
    }
    flags
}

/// Maps one unprivileged user into the namespace: nobody if this process is root, otherwise the current
/// user.
fn write_user_map(pid: Pid) -> io::Result<()> {
    let file = |name: &str| format!("/proc/{}/{name}", pid.as_raw_nonzero());
    if geteuid().is_root() {
        fs::write(file("uid_map"), format!("{NOBODY} {NOBODY} 1"))?;
        return fs::write(file("gid_map"), format!("{NOBODY} {NOBODY} 1"));
    }
    // From a process without privileges, the kernel accepts the group map only after `setgroups` is denied.
    fs::write(file("setgroups"), "deny")?;
    let (uid, gid) = (geteuid().as_raw(), rustix::process::getegid().as_raw());
    fs::write(file("uid_map"), format!("{NOBODY} {uid} 1"))?;
    fs::write(file("gid_map"), format!("{NOBODY} {gid} 1"))
}

/// What would help if a tier's setup failed.
pub(super) fn help(tier: Tier) -> &'static str {
    match tier {
        Tier::Full => {
            "allow user namespaces (sysctl kernel.unprivileged_userns_clone=1, \
             user.max_user_namespaces above 0, \
             kernel.apparmor_restrict_unprivileged_userns=0)"
        }
        Tier::Landlock => {
            "use Linux 5.13 or newer with Landlock enabled (`lsm=` on the kernel's command line \
             must name it), and a container profile that allows Landlock and seccomp"
        }
        Tier::Off => "check whether the machine lacks memory, processes or descriptors",
    }
}
