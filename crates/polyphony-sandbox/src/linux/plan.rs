//! Plans a zygote: its command line, its user, its limits, and the files that it sees.

use std::{
    ffi::CString,
    fs::File,
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::PermissionsExt,
    },
    path::Path,
};

use rustix::process::geteuid;

use super::{
    enter::{Entry, Identity, Privileges},
    interpreter::Installation,
    layers::{Layer, Layers},
    layout,
};
use crate::Limits;

/// The role of a zygote and its children.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Run programs.
    Solver,
    /// Run tests.
    Judge,
}

impl Role {
    /// The Python source that it runs.
    fn source(self) -> String {
        let role = match self {
            Self::Solver => include_str!("../python/solver.py"),
            Self::Judge => include_str!("../python/judge.py"),
        };
        let wire = include_str!("../python/wire.py");
        let zygote = include_str!("../python/zygote.py");
        [wire, role, zygote].join("\n\n")
    }
}

/// The user that root becomes. By convention it owns nothing.
pub(super) const NOBODY: u32 = 65534;
/// The most threads that a program may have at the same time, in tiers that can count them per program.
const THREADS: u64 = 64;
const STACK_BYTES: u64 = 8 << 20;

/// The inputs of [`prepare_entry`], which are the same for all zygotes of a pool.
pub(super) struct Plan<'a> {
    pub(super) installation: &'a Installation,
    pub(super) limits: &'a Limits,
    pub(super) layers: &'a Layers,
    pub(super) identity: Identity,
    /// `/dev/null`.
    pub(super) null: &'a File,
    /// The Landlock rules, if Landlock is among the layers.
    pub(super) ruleset: Option<&'a OwnedFd>,
}

/// Prepares the entry for zygotes of a role.
///
/// # Errors
///
/// If a path is not valid.
pub(super) fn prepare_entry(plan: &Plan<'_>, role: Role) -> io::Result<Entry> {
    let Plan {
        installation,
        layers,
        ..
    } = plan;
    let program = layout::c_path(&installation.interpreter.path)?;
    let text = |bytes: &[u8]| CString::new(bytes).map_err(io::Error::from);
    let mut arguments = vec![program.clone()];
    // No site packages, no byte code files, no warnings, independent of the locale.
    for argument in ["-s", "-S", "-B", "-X", "utf8", "-W", "ignore", "-c"] {
        arguments.push(text(argument.as_bytes())?);
    }
    arguments.push(text(role.source().as_bytes())?);
    let search = [b"LD_LIBRARY_PATH=", &layout::library_path(installation)[..]].concat();
    let environment = vec![
        // Sets have the same order in every run, so that a program gets the same verdict every time.
        text(b"PYTHONHASHSEED=0")?,
        text(b"PYTHONSAFEPATH=1")?,
        // The zygote looks up every symbol once, instead of each child.
        text(b"LD_BIND_NOW=1")?,
        // One arena per thread would use up the address space.
        text(b"MALLOC_ARENA_MAX=1")?,
        text(&search)?,
    ];
    Ok(Entry {
        program,
        arguments,
        environment,
        identity: plan.identity,
        root: match layers.contain(Layer::Root) {
            true => Some(layout::root_for(installation)?),
            false => None,
        },
        ruleset: plan.ruleset.map(AsRawFd::as_raw_fd),
        privileges: match layers.contain(Layer::Privileges) {
            true => Privileges::Drop,
            false => Privileges::Keep,
        },
        limits: match layers.contain(Layer::ResourceLimits) {
            true => resource_limits(plan.limits, layers),
            false => Vec::new(),
        },
        null: plan.null.as_raw_fd(),
    })
}

/// The user that a zygote becomes. In the Landlock tier, root stays root without capabilities if only
/// root can reach the interpreter.
pub(super) fn identity(installation: &Installation, layers: &Layers) -> Identity {
    let has_private_root = layers.contain(Layer::Root);
    let drops_identity =
        has_private_root || layers.contain(Layer::Namespaces) || layers.contain(Layer::Privileges);
    if !drops_identity || !geteuid().is_root() {
        return Identity::Keep;
    }
    if has_private_root || anyone_can_reach(installation) {
        return Identity::Become(NOBODY);
    }
    log::warn!(
        "only root can reach `{}`, so programs run as root without capabilities; name an \
         interpreter that others can read, such as one under /usr, to let them run as nobody",
        installation.interpreter.path.display()
    );
    Identity::Keep
}

fn anyone_can_reach(installation: &Installation) -> bool {
    let paths = installation.libraries.iter().chain(&installation.shared);
    let mut paths = paths
        .map(|file| file.path.as_path())
        .chain([installation.interpreter.path.as_path()]);
    let has_bits = |path: &Path, bits: u32| {
        let permissions = path
            .metadata()
            .map(|metadata| metadata.permissions().mode());
        permissions.is_ok_and(|mode| mode & bits == bits)
    };
    // Everyone may read the file itself, and search all directories above it.
    paths.all(|path| {
        has_bits(path, 0o004)
            && path
                .ancestors()
                .skip(1)
                .all(|directory| has_bits(directory, 0o001))
    })
}

fn resource_limits(limits: &Limits, layers: &Layers) -> Vec<(u32, u64)> {
    let mut list = vec![
        (libc::RLIMIT_AS, limits.address_space_mb << 20),
        (libc::RLIMIT_FSIZE, limits.file_bytes),
        // If the kernel pipes core files to a program, a limit of 0 does not prevent it, but a limit of 1
        // does. No core file fits into 1 byte.
        (libc::RLIMIT_CORE, 1),
        (libc::RLIMIT_NOFILE, limits.descriptors),
        (libc::RLIMIT_MEMLOCK, 0),
        (libc::RLIMIT_MSGQUEUE, 0),
        (libc::RLIMIT_STACK, STACK_BYTES),
    ];
    if layers.contain(Layer::Namespaces) {
        // The kernel counts threads per user and namespace. In a separate namespace, it counts only those of
        // this program.
        list.push((libc::RLIMIT_NPROC, THREADS));
    }
    list
}
