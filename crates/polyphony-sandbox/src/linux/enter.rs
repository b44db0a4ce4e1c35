//! The steps of a cloned process into its confinement, up to execve.
//!
//! Such a process may only make system calls and use memory that was prepared before (see
//! [`super::raw`]). Each step has a name, so that the error can say which one failed.

use std::{
    ffi::CString,
    os::fd::RawFd,
    ptr,
    sync::atomic::{AtomicI32, Ordering::Relaxed},
};

use super::raw::{self, Errno};

/// Everything that the steps need, prepared before the clone.
pub(super) struct Entry {
    /// The interpreter.
    pub(super) program: CString,
    /// Its arguments.
    pub(super) arguments: Vec<CString>,
    /// Its whole environment.
    pub(super) environment: Vec<CString>,
    /// The user that the process becomes.
    pub(super) identity: Identity,
    /// Its private root, in the full tier.
    pub(super) root: Option<Root>,
    /// The Landlock rules.
    pub(super) ruleset: Option<RawFd>,
    /// Whether it drops its capabilities and gives up gaining new ones.
    pub(super) privileges: Privileges,
    /// Resource limits: the kernel's number and the value.
    pub(super) limits: Vec<(u32, u64)>,
    /// `/dev/null`, for the standard streams.
    pub(super) null: RawFd,
}

/// The user that a process becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Identity {
    /// It stays the same user. Inside a user namespace, this user may have another number.
    Keep,
    /// It becomes the user and the group with this number, and leaves all other groups.
    Become(u32),
}

/// Whether a process drops its privileges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Privileges {
    /// It drops them.
    Drop,
    /// It keeps them.
    Keep,
}

/// A file system that contains only what is named here. Paths are relative to its root.
#[derive(Default)]
pub(super) struct Root {
    /// Directories to create, parents first.
    pub(super) directories: Vec<CString>,
    /// Empty files to create, as mount points for files.
    pub(super) files: Vec<CString>,
    /// Symbolic links: name, target.
    pub(super) links: Vec<(CString, CString)>,
    /// The host's files and directories that are visible.
    pub(super) mounts: Vec<Mount>,
    /// Directories inside mounts that are hidden behind an empty directory.
    pub(super) hidden: Vec<CString>,
}

/// A file or directory of the host that is visible, read-only.
pub(super) struct Mount {
    /// Its path on the host.
    pub(super) source: CString,
    /// Its path in the private root.
    pub(super) target: CString,
    /// The descriptor of the copied mount, from the step that copies it to the step that attaches it.
    pub(super) copied: AtomicI32,
}

/// The steps into the confinement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Step {
    Descriptors,
    Signals,
    UserMap,
    CopyMounts,
    Identity,
    PrivateMounts,
    MemoryRoot,
    FillRoot,
    AttachMounts,
    Pivot,
    HostName,
    Capabilities,
    NoNewPrivileges,
    Limits,
    Landlock,
    ParentDeath,
    Execute,
}

impl Step {
    const ALL: [Self; 17] = [
        Self::Descriptors,
        Self::Signals,
        Self::UserMap,
        Self::CopyMounts,
        Self::Identity,
        Self::PrivateMounts,
        Self::MemoryRoot,
        Self::FillRoot,
        Self::AttachMounts,
        Self::Pivot,
        Self::HostName,
        Self::Capabilities,
        Self::NoNewPrivileges,
        Self::Limits,
        Self::Landlock,
        Self::ParentDeath,
        Self::Execute,
    ];

    /// The step with a number that a process reported.
    pub(super) fn of(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }

    /// A description of the step.
    pub(super) fn description(self) -> &'static str {
        match self {
            Self::Descriptors => "arranging descriptors",
            Self::Signals => "resetting signals",
            Self::UserMap => "waiting for the user map",
            Self::CopyMounts => "copying the interpreter's mounts",
            Self::Identity => "becoming an unprivileged user",
            Self::PrivateMounts => "making mounts private",
            Self::MemoryRoot => "mounting a root in memory",
            Self::FillRoot => "filling the root",
            Self::AttachMounts => "mounting the interpreter read-only",
            Self::Pivot => "changing the root",
            Self::HostName => "changing the host name",
            Self::Capabilities => "dropping capabilities",
            Self::NoNewPrivileges => "forbidding new privileges",
            Self::Limits => "setting resource limits",
            Self::Landlock => "restricting itself with Landlock",
            Self::ParentDeath => "tying its life to the parent's",
            Self::Execute => "starting the interpreter",
        }
    }
}

/// The descriptor of a zygote's control socket.
const CONTROL: RawFd = 3;
/// All descriptors of a zygote have lower numbers than this.
const FREE: RawFd = 4;

/// Enters the confinement and becomes the interpreter. Waits on the pipe `go` until the host has written
/// the user map. If a step fails, writes the step's number and the error number to `report`.
///
/// # Safety
///
/// Must run in a process that was cloned for it. The entry's pointers must have been prepared before.
pub(super) unsafe fn enter(
    entry: &Entry,
    pointers: &Pointers,
    control: RawFd,
    [go, go_writer]: [RawFd; 2],
    report: RawFd,
) -> ! {
    let mut step = Step::Descriptors;
    // If this process kept a copy of the pipe's writing end, it would wait forever after the host died.
    raw::close(go_writer);
    // It moves above the numbers that the standard streams and the control socket will get.
    let report = raw::duplicate_above(report, FREE).unwrap_or(report);
    let error = match Descriptors::of(entry, control, go) {
        // SAFETY: the caller has the same obligations.
        Ok(descriptors) => unsafe { run_steps(entry, pointers, &descriptors, &mut step) },
        Err(error) => Err(error),
    };
    let (Ok(error) | Err(error)) = error;
    let [a, b, c, d] = error.0.to_le_bytes();
    let _ = raw::write(report, &[step as u8, a, b, c, d]);
    raw::exit(1)
}

/// The argument lists for execve. They are prepared before the clone, since that allocates memory.
pub(super) struct Pointers {
    arguments: Vec<*const libc::c_char>,
    environment: Vec<*const libc::c_char>,
}

impl Pointers {
    /// Pointers into an entry, which must outlive them.
    pub(super) fn of(entry: &Entry) -> Self {
        let list = |texts: &[CString]| {
            let texts = texts.iter().map(|text| text.as_ptr());
            texts.chain([ptr::null()]).collect()
        };
        Self {
            arguments: list(&entry.arguments),
            environment: list(&entry.environment),
        }
    }
}

/// The descriptors that the steps use. None has a number that another descriptor will get.
struct Descriptors {
    control: RawFd,
    go: RawFd,
    null: RawFd,
    ruleset: Option<RawFd>,
}

impl Descriptors {
    fn of(entry: &Entry, control: RawFd, go: RawFd) -> Result<Self, Errno> {
        let above = |fd| raw::duplicate_above(fd, FREE);
        Ok(Self {
            control: above(control)?,
            go: above(go)?,
            null: above(entry.null)?,
            ruleset: entry.ruleset.map(above).transpose()?,
        })
    }
}

/// Runs all steps. Returns only if one fails.
unsafe fn run_steps(
    entry: &Entry,
    pointers: &Pointers,
    descriptors: &Descriptors,
    step: &mut Step,
) -> Result<Errno, Errno> {
    *step = Step::ParentDeath;
    raw::die_with_parent()?;
    *step = Step::Signals;
    raw::reset_signals()?;
    // In its own session it does not get a Ctrl-C at the terminal, which is meant for the host.
    raw::start_session()?;

    *step = Step::UserMap;
    let mut byte = [0];
    if raw::read(descriptors.go, &mut byte)? == 0 {
        raw::exit(1);
    }
    if let Some(root) = &entry.root {
        // This comes before the change of user, since perhaps only the current user can read the interpreter.
        *step = Step::CopyMounts;
        for mount in &root.mounts {
            mount
                .copied
                .store(raw::copy_mounts(&mount.source)?, Relaxed);
        }
    }
    *step = Step::Identity;
    change_identity(entry.identity)?;
    match &entry.root {
        Some(root) => build_root(root, step)?,
        None => raw::change_directory(c"/")?,
    }

    if entry.privileges == Privileges::Drop {
        *step = Step::Capabilities;
        raw::drop_capabilities()?;
        *step = Step::NoNewPrivileges;
        raw::gain_no_privileges()?;
    }
    *step = Step::Descriptors;
    arrange_descriptors(descriptors)?;
    *step = Step::Limits;
    for &(resource, value) in &entry.limits {
        raw::limit(resource, value)?;
    }
    if let Some(ruleset) = descriptors.ruleset {
        *step = Step::Landlock;
        raw::restrict_with_landlock(ruleset)?;
    }
    // Once more, since the change of user has undone the first call.
    *step = Step::ParentDeath;
    raw::die_with_parent()?;
    *step = Step::Execute;
    // SAFETY: `Pointers::of` made both lists from this entry.
    Ok(unsafe { raw::execute(&entry.program, &pointers.arguments, &pointers.environment) })
}

fn change_identity(identity: Identity) -> Result<(), Errno> {
    if let Identity::Become(id) = identity {
        raw::leave_groups()?;
        raw::become_group(id)?;
        raw::become_user(id)?;
    }
    Ok(())
}

fn build_root(root: &Root, step: &mut Step) -> Result<(), Errno> {
    *step = Step::PrivateMounts;
    raw::keep_mounts_private()?;
    *step = Step::MemoryRoot;
    // Any directory would do as the mount point. `/proc` exists: the user map was written there.
    raw::mount_memory(c"/proc", 0, c"mode=0755,size=1m,nr_inodes=2048")?;
    raw::change_directory(c"/proc")?;
    *step = Step::FillRoot;
    root.directories
        .iter()
        .try_for_each(|name| raw::make_directory(name))?;
    root.files
        .iter()
        .try_for_each(|name| raw::make_file(name))?;
    root.links
        .iter()
        .try_for_each(|(name, to)| raw::make_link(name, to))?;
    *step = Step::AttachMounts;
    for mount in &root.mounts {
        let copied = mount.copied.load(Relaxed);
        raw::forbid_writing(copied)?;
        raw::attach_mounts(copied, &mount.target)?;
    }
    for name in &root.hidden {
        raw::mount_memory(name, libc::MS_RDONLY, c"mode=0755,size=4k,nr_inodes=2")?;
    }
    *step = Step::Pivot;
    raw::forbid_writing_here()?;
    raw::make_this_the_root()?;
    *step = Step::HostName;
    raw::set_host_name(c"sandbox")
}

/// Connects the standard streams to nothing, gives the control socket its number, and lets execve close
/// everything else.
fn arrange_descriptors(descriptors: &Descriptors) -> Result<(), Errno> {
    raw::close_on_exec_from(FREE)?;
    for standard in 0..CONTROL {
        raw::duplicate_to(descriptors.null, standard)?;
    }
    raw::duplicate_to(descriptors.control, CONTROL)
}
