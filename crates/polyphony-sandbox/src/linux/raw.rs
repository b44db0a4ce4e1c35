//! System calls for a process that was cloned from a process with several threads.
//!
//! Between clone and execve such a process may only make system calls: another thread may have held any
//! lock, even the allocator's. The C library's functions such as `setresuid` are not plain system calls
//! either, since they signal all threads. Therefore everything here calls the kernel directly.

use std::{
    ffi::{CStr, c_int, c_long, c_ulong},
    os::fd::RawFd,
};

/// The kernel's error number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Errno(pub(super) i32);

type CallResult = Result<(), Errno>;

const OPEN_TREE_CLONE: usize = 1;
const AT_RECURSIVE: usize = 0x8000;
const MOVE_MOUNT_F_EMPTY_PATH: usize = 4;
const MOUNT_ATTR_RDONLY: u64 = 1;
const MOUNT_ATTR_NOSUID: u64 = 2;
const MOUNT_ATTR_NODEV: u64 = 4;
const MOUNT_ATTR_NOEXEC: u64 = 8;
const CAPABILITY_VERSION_3: u32 = 0x2008_0522;
/// More capabilities than any kernel knows.
const CAPABILITIES: usize = 64;

#[repr(C)]
struct MountAttributes {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

fn call(number: c_long, arguments: [usize; 6]) -> Result<usize, Errno> {
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: this function is private to the module. Each caller below passes the arguments that this
    // system call takes, with pointers that live until it returns.
    let result = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    if result == -1 {
        // SAFETY: the location of errno belongs to this thread.
        return Err(Errno(unsafe { *libc::__errno_location() }));
    }
    Ok(result as usize)
}

fn descriptor(fd: RawFd) -> usize {
    fd as usize
}

fn path(name: &CStr) -> usize {
    name.as_ptr() as usize
}

/// Forks this process into new namespaces, with one thread. Returns 0 in the child.
///
/// # Safety
///
/// The child may only make system calls until it becomes another program or ends.
pub(super) unsafe fn fork_into(namespaces: c_int) -> Result<i32, Errno> {
    let flags = namespaces as usize | libc::SIGCHLD as usize;
    // Without a separate stack the child continues on a copy of this one, as after fork.
    call(libc::SYS_clone, [flags, 0, 0, 0, 0, 0]).map(|pid| pid as i32)
}

pub(super) fn read(fd: RawFd, bytes: &mut [u8]) -> Result<usize, Errno> {
    let at = bytes.as_mut_ptr() as usize;
    call(libc::SYS_read, [descriptor(fd), at, bytes.len(), 0, 0, 0])
}

pub(super) fn close(fd: RawFd) {
    // Nothing can be done about a failure.
    let _ = call(libc::SYS_close, [descriptor(fd), 0, 0, 0, 0, 0]);
}

pub(super) fn write(fd: RawFd, bytes: &[u8]) -> Result<usize, Errno> {
    let at = bytes.as_ptr() as usize;
    call(libc::SYS_write, [descriptor(fd), at, bytes.len(), 0, 0, 0])
}

pub(super) fn exit(code: c_int) -> ! {
    loop {
        let _ = call(libc::SYS_exit_group, [code as usize, 0, 0, 0, 0, 0]);
    }
}

/// A copy of the mount at a path and of all mounts below it, not attached anywhere.
pub(super) fn copy_mounts(source: &CStr) -> Result<RawFd, Errno> {
    let flags = OPEN_TREE_CLONE | AT_RECURSIVE | libc::O_CLOEXEC as usize;
    let at = descriptor(libc::AT_FDCWD);
    call(libc::SYS_open_tree, [at, path(source), flags, 0, 0, 0]).map(|fd| fd as RawFd)
}

/// Attaches the mounts from [`copy_mounts`].
pub(super) fn attach_mounts(mounts: RawFd, target: &CStr) -> CallResult {
    let arguments = [
        descriptor(mounts),
        path(c""),
        descriptor(libc::AT_FDCWD),
        path(target),
        MOVE_MOUNT_F_EMPTY_PATH,
        0,
    ];
    call(libc::SYS_move_mount, arguments).map(drop)
}

/// Makes a mount and all mounts below it read-only. Device files and set-user-id bits have no effect there.
pub(super) fn forbid_writing(mounts: RawFd) -> CallResult {
    let set = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV;
    let flags = AT_RECURSIVE | libc::AT_EMPTY_PATH as usize;
    set_attributes(mounts, c"", flags, set)
}

/// Like [`forbid_writing`], for the mount of the current directory, where it also forbids executing files.
/// Mounts below it stay as they are.
pub(super) fn forbid_writing_here() -> CallResult {
    let set = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;
    set_attributes(libc::AT_FDCWD, c".", 0, set)
}

fn set_attributes(at: RawFd, name: &CStr, flags: usize, set: u64) -> CallResult {
    let attributes = MountAttributes {
        set,
        clear: 0,
        propagation: 0,
        user_namespace: 0,
    };
    let arguments = [
        descriptor(at),
        path(name),
        flags,
        &raw const attributes as usize,
        size_of::<MountAttributes>(),
        0,
    ];
    call(libc::SYS_mount_setattr, arguments).map(drop)
}

/// From now on, new mounts in this namespace do not appear in others, and new mounts in others do not
/// appear in this one.
pub(super) fn keep_mounts_private() -> CallResult {
    let flags = (libc::MS_REC | libc::MS_PRIVATE) as usize;
    call(libc::SYS_mount, [0, path(c"/"), 0, flags, 0, 0]).map(drop)
}

/// Mounts an empty file system in memory.
pub(super) fn mount_memory(target: &CStr, flags: c_ulong, options: &CStr) -> CallResult {
    let name = path(c"tmpfs");
    let flags = (flags | libc::MS_NOSUID | libc::MS_NODEV) as usize;
    let arguments = [name, path(target), name, flags, path(options), 0];
    call(libc::SYS_mount, arguments).map(drop)
}

pub(super) fn make_directory(name: &CStr) -> CallResult {
    let at = descriptor(libc::AT_FDCWD);
    call(libc::SYS_mkdirat, [at, path(name), 0o755, 0, 0, 0]).map(drop)
}

pub(super) fn make_file(name: &CStr) -> CallResult {
    let at = descriptor(libc::AT_FDCWD);
    let flags = (libc::O_CREAT | libc::O_EXCL | libc::O_WRONLY | libc::O_CLOEXEC) as usize;
    let fd = call(libc::SYS_openat, [at, path(name), flags, 0o644, 0, 0])?;
    call(libc::SYS_close, [fd, 0, 0, 0, 0, 0]).map(drop)
}

pub(super) fn make_link(name: &CStr, to: &CStr) -> CallResult {
    let at = descriptor(libc::AT_FDCWD);
    call(libc::SYS_symlinkat, [path(to), at, path(name), 0, 0, 0]).map(drop)
}

pub(super) fn change_directory(to: &CStr) -> CallResult {
    call(libc::SYS_chdir, [path(to), 0, 0, 0, 0, 0]).map(drop)
}

/// Makes the current directory's mount the root, and detaches the old root.
pub(super) fn make_this_the_root() -> CallResult {
    let here = path(c".");
    call(libc::SYS_pivot_root, [here, here, 0, 0, 0, 0])?;
    // Both roots are stacked now, the old one on top.
    call(
        libc::SYS_umount2,
        [here, libc::MNT_DETACH as usize, 0, 0, 0, 0],
    )?;
    change_directory(c"/")
}

pub(super) fn leave_groups() -> CallResult {
    call(libc::SYS_setgroups, [0; 6]).map(drop)
}

pub(super) fn become_group(gid: u32) -> CallResult {
    let gid = gid as usize;
    call(libc::SYS_setresgid, [gid, gid, gid, 0, 0, 0]).map(drop)
}

pub(super) fn become_user(uid: u32) -> CallResult {
    let uid = uid as usize;
    call(libc::SYS_setresuid, [uid, uid, uid, 0, 0, 0]).map(drop)
}

pub(super) fn is_root() -> bool {
    call(libc::SYS_geteuid, [0; 6]) == Ok(0)
}

/// Drops every capability, also those that root would gain by executing a program.
pub(super) fn drop_capabilities() -> CallResult {
    for capability in 0..CAPABILITIES {
        // This fails for numbers that the kernel does not know, and for a process without capabilities.
        let _ = control(libc::PR_CAPBSET_DROP, capability);
    }
    if is_root() {
        let bits = libc::SECBIT_NOROOT
            | libc::SECBIT_NOROOT_LOCKED
            | libc::SECBIT_NO_CAP_AMBIENT_RAISE
            | libc::SECBIT_NO_CAP_AMBIENT_RAISE_LOCKED;
        control(libc::PR_SET_SECUREBITS, bits as usize)?;
    }
    let header = [CAPABILITY_VERSION_3, 0];
    let none = [0_u32; 6];
    let arguments = [header.as_ptr() as usize, none.as_ptr() as usize, 0, 0, 0, 0];
    call(libc::SYS_capset, arguments).map(drop)
}

fn control(option: c_int, value: usize) -> CallResult {
    call(libc::SYS_prctl, [option as usize, value, 0, 0, 0, 0]).map(drop)
}

pub(super) fn gain_no_privileges() -> CallResult {
    control(libc::PR_SET_NO_NEW_PRIVS, 1)
}

pub(super) fn die_with_parent() -> CallResult {
    control(libc::PR_SET_PDEATHSIG, libc::SIGKILL as usize)
}

pub(super) fn set_host_name(name: &CStr) -> CallResult {
    let length = name.count_bytes();
    call(libc::SYS_sethostname, [path(name), length, 0, 0, 0, 0]).map(drop)
}

pub(super) fn start_session() -> CallResult {
    call(libc::SYS_setsid, [0; 6]).map(drop)
}

/// Lowers a resource limit permanently. A limit that is lower already stays.
pub(super) fn limit(resource: u32, max: u64) -> CallResult {
    let mut limit = [0_u64; 2];
    let resource = resource as usize;
    let at = &raw mut limit as usize;
    call(libc::SYS_prlimit64, [0, resource, 0, at, 0, 0])?;
    let [_, hard] = limit;
    let limit = [max.min(hard); 2];
    let at = &raw const limit as usize;
    call(libc::SYS_prlimit64, [0, resource, at, 0, 0, 0]).map(drop)
}

pub(super) fn restrict_with_landlock(ruleset: RawFd) -> CallResult {
    let arguments = [descriptor(ruleset), 0, 0, 0, 0, 0];
    call(libc::SYS_landlock_restrict_self, arguments).map(drop)
}

/// Restores the default handling of every signal, and blocks none.
pub(super) fn reset_signals() -> CallResult {
    // A signal action in the kernel's layout, which is not the C library's: handler, flags, restorer, mask.
    let default = [0_usize; 4];
    let at = &raw const default as usize;
    for signal in 1..=64 {
        // This fails for SIGKILL and SIGSTOP, whose handling is fixed.
        let _ = call(libc::SYS_rt_sigaction, [signal, at, 0, 8, 0, 0]);
    }
    let none = 0_u64;
    let how = libc::SIG_SETMASK as usize;
    let arguments = [how, &raw const none as usize, 0, 8, 0, 0];
    call(libc::SYS_rt_sigprocmask, arguments).map(drop)
}

/// A duplicate of a descriptor, with a number of at least `lowest`. execve closes it.
pub(super) fn duplicate_above(fd: RawFd, lowest: RawFd) -> Result<RawFd, Errno> {
    let command = libc::F_DUPFD_CLOEXEC as usize;
    let arguments = [descriptor(fd), command, descriptor(lowest), 0, 0, 0];
    call(libc::SYS_fcntl, arguments).map(|fd| fd as RawFd)
}

/// Duplicates a descriptor to this number. execve keeps it open.
pub(super) fn duplicate_to(fd: RawFd, number: RawFd) -> CallResult {
    let arguments = [descriptor(fd), descriptor(number), 0, 0, 0, 0];
    call(libc::SYS_dup3, arguments).map(drop)
}

/// Makes execve close every descriptor from this number on.
pub(super) fn close_on_exec_from(first: RawFd) -> CallResult {
    const CLOEXEC: usize = 4;
    let arguments = [descriptor(first), u32::MAX as usize, CLOEXEC, 0, 0, 0];
    call(libc::SYS_close_range, arguments).map(drop)
}

/// Becomes another program. Returns only if that fails.
///
/// # Safety
///
/// Both lists must contain pointers to C strings and end with a null pointer.
pub(super) unsafe fn execute(
    program: &CStr,
    arguments: &[*const libc::c_char],
    environment: &[*const libc::c_char],
) -> Errno {
    let arguments = arguments.as_ptr() as usize;
    let environment = environment.as_ptr() as usize;
    let result = call(
        libc::SYS_execve,
        [path(program), arguments, environment, 0, 0, 0],
    );
    result.err().unwrap_or(Errno(0))
}
