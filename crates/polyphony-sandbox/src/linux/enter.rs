//! What a cloned process does on its way into confinement, up to execve.
//!
//! Only system calls and memory that was laid out before (see [`super::raw`]). Each step has a name,
//! so that a failure can be told.

use std::{
    ffi::CString,
    os::fd::RawFd,
    ptr,
    sync::atomic::{AtomicI32, Ordering::Relaxed},
};

use super::raw::{self, Errno};

/// Everything that the way in needs, laid out before the clone.
pub(super) struct Entry {
    /// The interpreter.
    pub(super) program: CString,
    /// Its arguments.
    pub(super) arguments: Vec<CString>,
    /// Its whole environment.
    pub(super) environment: Vec<CString>,
    /// Whom the process becomes.
    pub(super) identity: Identity,
    /// The root of its own, in the full tier.
    pub(super) root: Option<Root>,
    /// The Landlock rules.
    pub(super) ruleset: Option<RawFd>,
    /// Whether capabilities and the way to new ones are given up.
    pub(super) privileges: Privileges,
    /// Resource limits: the kernel's number and the value.
    pub(super) limits: Vec<(u32, u64)>,
    /// `/dev/null`, for the standard streams.
    pub(super) null: RawFd,
}

/// Whom a process becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Identity {
    /// Stays who it is, as seen from inside its user namespace too.
    Keep,
    /// Becomes another user with the group of the same number, and leaves all other groups.
    Become(u32),
}

/// What happens to privileges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Privileges {
    /// Given up.
    Drop,
    /// Left as they are.
    Keep,
}

/// A file system that holds what is named here and nothing else. Paths are relative to its root.
#[derive(Default)]
pub(super) struct Root {
    /// Directories to make, each after the one that it lies in.
    pub(super) directories: Vec<CString>,
    /// Empty files to make, for files to be mounted on.
    pub(super) files: Vec<CString>,
    /// Symbolic links: name, target.
    pub(super) links: Vec<(CString, CString)>,
    /// What is shown of the host's files.
    pub(super) mounts: Vec<Mount>,
    /// Directories inside mounts that are hidden behind an empty one.
    pub(super) hidden: Vec<CString>,
}

/// A file or directory of the host's that is shown, read-only.
pub(super) struct Mount {
    /// Where it is on the host.
    pub(super) source: CString,
    /// Where it is shown.
    pub(super) target: CString,
    /// The copied mount, between the two halves of the set-up.
    pub(super) copied: AtomicI32,
}

/// The steps of the way in.
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

    /// The step of a number that a process reported.
    pub(super) fn of(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }

    /// What is done in it.
    pub(super) fn what(self) -> &'static str {
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
/// The first number that no descriptor of a zygote has.
const FREE: RawFd = 4;

/// Goes in and becomes the interpreter; where that fails, writes step and error number to `report`.
///
/// # Safety
///
/// Runs in a process that was cloned for it. The entry's pointers were laid out before.
pub(super) unsafe fn enter(
    entry: &Entry,
    pointers: &Pointers,
    control: RawFd,
    [go, its_other_end]: [RawFd; 2],
    report: RawFd,
) -> ! {
    let mut step = Step::Descriptors;
    // With its own copy of the end that is written to, it would wait for ever if the trainer died.
    raw::close(its_other_end);
    // Out of the way of the numbers that the standard streams and the control socket will get.
    let report = raw::duplicate_above(report, FREE).unwrap_or(report);
    let error = match Descriptors::of(entry, control, go) {
        // SAFETY: passed on from the caller.
        Ok(descriptors) => unsafe { walk(entry, pointers, &descriptors, &mut step) },
        Err(error) => Err(error),
    };
    let (Ok(error) | Err(error)) = error;
    let [a, b, c, d] = error.0.to_le_bytes();
    let _ = raw::write(report, &[step as u8, a, b, c, d]);
    raw::exit(1)
}

/// The argument lists as execve wants them: laid out before the clone, since that takes memory.
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

/// What the way in uses, none of it with a number that is about to be given to something else.
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

/// Runs all steps. Comes back only with an error.
unsafe fn walk(
    entry: &Entry,
    pointers: &Pointers,
    descriptors: &Descriptors,
    step: &mut Step,
) -> Result<Errno, Errno> {
    *step = Step::ParentDeath;
    raw::die_with_parent()?;
    *step = Step::Signals;
    raw::reset_signals()?;
    // A Ctrl-C at the terminal is for the trainer alone.
    raw::start_session()?;

    *step = Step::UserMap;
    let mut byte = [0];
    if raw::read(descriptors.go, &mut byte)? == 0 {
        raw::exit(1);
    }
    if let Some(root) = &entry.root {
        // While this is still who may read the interpreter, wherever it lies.
        *step = Step::CopyMounts;
        for mount in &root.mounts {
            mount
                .copied
                .store(raw::copy_mounts(&mount.source)?, Relaxed);
        }
    }
    *step = Step::Identity;
    become_whom(entry.identity)?;
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
    // Once more: the change of user has undone it.
    *step = Step::ParentDeath;
    raw::die_with_parent()?;
    *step = Step::Execute;
    // SAFETY: both lists were made by `Pointers::of` from this entry.
    Ok(unsafe { raw::execute(&entry.program, &pointers.arguments, &pointers.environment) })
}

fn become_whom(identity: Identity) -> Result<(), Errno> {
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
    // Any directory serves; this one is where the user map was written, so it is there.
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

/// The standard streams lead nowhere, the control socket has its number, all else goes at execve.
fn arrange_descriptors(descriptors: &Descriptors) -> Result<(), Errno> {
    raw::close_on_exec_from(FREE)?;
    for standard in 0..CONTROL {
        raw::duplicate_to(descriptors.null, standard)?;
    }
    raw::duplicate_to(descriptors.control, CONTROL)
}
