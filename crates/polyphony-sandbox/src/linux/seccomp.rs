//! The system calls that a zygote and its children may make.
//!
//! There are three kinds of filters, and the kernel applies the most severe result:
//!
//! 1. *Killed*: calls that no honest program makes here, and every other entry point into the kernel
//!    (x32, 32-bit). The zygote installs this filter first, and children inherit it.
//! 2. *Not implemented*: `clone3`. A filter cannot see its arguments, so the C library has to fall back to
//!    `clone`. The zygote installs this filter too.
//! 3. *Allowed*: an allow-list. Calls that are not on it are refused with "operation not permitted". The
//!    zygote's list lets it fork, wait and pass on a socket. Each child adds a list without these calls.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Width, SeccompCmpOp as Is, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch, sock_filter,
};

/// A placeholder in a filter for the child's process id, which is inserted in the child.
const OWN_PID: u64 = 0x504f_4c59;

/// The filters, each as bytes for the kernel.
pub(super) struct Filters {
    /// The filters that a zygote installs for itself and all its children, in order.
    pub(super) zygote: Vec<Vec<u8>>,
    /// The filter that each child adds.
    pub(super) child: Vec<u8>,
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Builds all filters for this machine.
///
/// # Errors
///
/// If there are no filters for this processor: the reason.
pub(super) fn filters() -> Result<Filters, String> {
    let arch = TargetArch::try_from(std::env::consts::ARCH)
        .map_err(|_| format!("there are no filters for {}", std::env::consts::ARCH))?;
    let not_implemented = SeccompAction::Errno(libc::ENOSYS as u32);
    let refused = SeccompAction::Errno(libc::EPERM as u32);
    let build = |rules: Rules, matched: &SeccompAction, unmatched: &SeccompAction| {
        let filter = SeccompFilter::new(rules, unmatched.clone(), matched.clone(), arch);
        filter
            .and_then(BpfProgram::try_from)
            .map_err(|error| error.to_string())
    };
    let allow = &SeccompAction::Allow;
    let mut killed = foreign_entry_points();
    killed.extend(build(all(KILLED)?, &SeccompAction::KillProcess, allow)?);
    let clone3 = build(all(&[libc::SYS_clone3])?, &not_implemented, allow)?;
    Ok(Filters {
        zygote: vec![
            bytes(&killed),
            bytes(&clone3),
            bytes(&build(zygote_rules()?, allow, &refused)?),
        ],
        child: bytes(&build(child_rules()?, allow, &refused)?),
    })
}

/// Kills calls through the x32 entry point, which has the same architecture number as the 64-bit one. Calls
/// through the 32-bit entry point have another number, for which every filter of `seccompiler` kills.
#[cfg(target_arch = "x86_64")]
fn foreign_entry_points() -> BpfProgram {
    const LOAD_NUMBER: sock_filter = instruction(0x20, 0, 0, 0);
    const X32: u32 = 0x4000_0000;
    const KILL_PROCESS: u32 = 0x8000_0000;
    vec![
        LOAD_NUMBER,
        instruction(0x35, 0, 1, X32),
        instruction(0x06, 0, 0, KILL_PROCESS),
    ]
}

#[cfg(not(target_arch = "x86_64"))]
fn foreign_entry_points() -> BpfProgram {
    BpfProgram::new()
}

#[cfg(target_arch = "x86_64")]
const fn instruction(code: u16, jt: u8, jf: u8, k: u32) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

fn bytes(program: &[sock_filter]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(program.len() * 8);
    for instruction in program {
        bytes.extend(instruction.code.to_ne_bytes());
        bytes.extend([instruction.jt, instruction.jf]);
        bytes.extend(instruction.k.to_ne_bytes());
    }
    bytes
}

/// Rules for these calls, whatever their arguments.
fn all(calls: &[i64]) -> Result<Rules, String> {
    Ok(calls.iter().map(|call| (*call, Vec::new())).collect())
}

/// A rule that matches if all conditions hold. A condition consists of the number of an argument, a
/// comparison, and a value.
fn rule(conditions: &[(u8, Is, u64)]) -> Result<SeccompRule, String> {
    rule_on(Width::Dword, conditions)
}

/// Like [`rule`], for arguments of this width. If the kernel uses all 64 bits of an argument, comparing only
/// the lower half would be wrong.
fn rule_on(width: Width, conditions: &[(u8, Is, u64)]) -> Result<SeccompRule, String> {
    let conditions = conditions
        .iter()
        .map(|(argument, comparison, value)| {
            SeccompCondition::new(*argument, width.clone(), comparison.clone(), *value)
        })
        .collect::<Result<_, _>>();
    conditions
        .and_then(SeccompRule::new)
        .map_err(|error| error.to_string())
}

fn zygote_rules() -> Result<Rules, String> {
    let mut rules = child_rules()?;
    rules.extend(all(FOR_ZYGOTES)?);
    // Every kind of clone is allowed, so that the zygote can fork children.
    rules.insert(libc::SYS_clone, Vec::new());
    rules.insert(libc::SYS_prlimit64, Vec::new());
    // Children inherit this filter, so signals are allowed here. Their own filter restricts them.
    rules.insert(libc::SYS_tgkill, Vec::new());
    rules.insert(libc::SYS_kill, Vec::new());
    Ok(rules)
}

fn child_rules() -> Result<Rules, String> {
    let mut rules = all(ALLOWED)?;
    let thread = libc::CLONE_THREAD as u64;
    rules.insert(
        libc::SYS_clone,
        vec![rule(&[(0, Is::MaskedEq(thread), thread)])?],
    );
    let writing = (libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC | libc::O_TMPFILE) as u64
        & !(libc::O_DIRECTORY as u64);
    let reading = |flags: u8| rule(&[(flags, Is::MaskedEq(writing), libc::O_RDONLY as u64)]);
    rules.insert(libc::SYS_openat, vec![reading(2)?]);
    #[cfg(target_arch = "x86_64")]
    rules.insert(libc::SYS_open, vec![reading(1)?]);
    let is_one_of = |argument: u8, values: &[u64]| {
        let values = values.iter();
        let rules = values.map(|value| rule(&[(argument, Is::Eq, *value)]));
        rules.collect::<Result<Vec<_>, _>>()
    };
    rules.insert(libc::SYS_fcntl, is_one_of(1, FCNTL)?);
    rules.insert(libc::SYS_ioctl, is_one_of(1, IOCTL)?);
    rules.insert(libc::SYS_prctl, is_one_of(0, PRCTL)?);
    // A process may read its own limits, but not set them: the address of new limits must be 0. All 64 bits
    // are compared, since the lower half of a valid address can be 0.
    rules.insert(
        libc::SYS_prlimit64,
        vec![rule_on(Width::Qword, &[(0, Is::Eq, 0), (2, Is::Eq, 0)])?],
    );
    // A process may signal itself, but not with SIGKILL, which would look like a kill by the system, and not
    // with SIGSTOP.
    let itself = || {
        rule(&[
            (0, Is::Eq, OWN_PID),
            (1, Is::Ne, libc::SIGKILL as u64),
            (1, Is::Ne, libc::SIGSTOP as u64),
        ])
    };
    rules.insert(libc::SYS_kill, vec![itself()?]);
    rules.insert(
        libc::SYS_tgkill,
        vec![rule(&[
            (0, Is::Eq, OWN_PID),
            (2, Is::Ne, libc::SIGKILL as u64),
            (2, Is::Ne, libc::SIGSTOP as u64),
        ])?],
    );
    Ok(rules)
}

/// Commands that duplicate a descriptor, read its flags, or set whether exec closes it. Commands that choose
/// which process a descriptor signals are missing.
const FCNTL: &[u64] = &[
    libc::F_DUPFD as u64,
    libc::F_DUPFD_CLOEXEC as u64,
    libc::F_GETFD as u64,
    libc::F_SETFD as u64,
    libc::F_GETFL as u64,
];

/// Requests that ask whether a descriptor is a terminal, or set whether exec closes it.
const IOCTL: &[u64] = &[libc::TCGETS, libc::FIOCLEX, libc::FIONCLEX];

/// Options for the names of threads, and for the names that the allocator gives to memory areas.
const PRCTL: &[u64] = &[
    libc::PR_SET_NAME as u64,
    libc::PR_GET_NAME as u64,
    libc::PR_SET_VMA as u64,
];

/// The calls that a zygote needs besides those of its children.
const FOR_ZYGOTES: &[i64] = &[
    libc::SYS_wait4,
    libc::SYS_waitid,
    libc::SYS_pidfd_open,
    libc::SYS_sendmsg,
    libc::SYS_recvmsg,
    libc::SYS_recvfrom,
    libc::SYS_sendto,
    libc::SYS_seccomp,
    libc::SYS_prctl,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
];

/// Calls that no honest program makes here.
const KILLED: &[i64] = &[
    libc::SYS_acct,
    libc::SYS_add_key,
    libc::SYS_adjtimex,
    libc::SYS_bpf,
    libc::SYS_chroot,
    libc::SYS_clock_adjtime,
    libc::SYS_clock_settime,
    libc::SYS_delete_module,
    libc::SYS_fanotify_init,
    libc::SYS_finit_module,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_init_module,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    libc::SYS_kcmp,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_mount,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    libc::SYS_perf_event_open,
    libc::SYS_personality,
    libc::SYS_pidfd_getfd,
    libc::SYS_pivot_root,
    libc::SYS_process_madvise,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_ptrace,
    libc::SYS_quotactl,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_setdomainname,
    libc::SYS_sethostname,
    libc::SYS_setns,
    libc::SYS_settimeofday,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_syslog,
    libc::SYS_umount2,
    libc::SYS_unshare,
    libc::SYS_userfaultfd,
    libc::SYS_vhangup,
];

/// The calls that an interpreter needs to compute, to read its library and to run threads.
const ALLOWED: &[i64] = &[
    // Memory.
    libc::SYS_brk,
    libc::SYS_madvise,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_munmap,
    // Existing files and descriptors.
    libc::SYS_close,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_fstat,
    libc::SYS_getcwd,
    libc::SYS_getdents64,
    libc::SYS_lseek,
    libc::SYS_newfstatat,
    libc::SYS_pread64,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_statx,
    libc::SYS_write,
    libc::SYS_writev,
    // Threads, waiting, time.
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    // Refused by a separate filter, with the error that makes the C library fall back.
    libc::SYS_clone3,
    libc::SYS_futex,
    libc::SYS_futex_waitv,
    libc::SYS_get_robust_list,
    libc::SYS_getcpu,
    libc::SYS_getitimer,
    libc::SYS_gettimeofday,
    libc::SYS_membarrier,
    libc::SYS_nanosleep,
    libc::SYS_ppoll,
    libc::SYS_pselect6,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_getparam,
    libc::SYS_sched_getscheduler,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_set_tid_address,
    libc::SYS_setitimer,
    // Signals of the process itself.
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigpending,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigsuspend,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_sigaltstack,
    // Information about the process and the system.
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getgroups,
    libc::SYS_getpgid,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_getrandom,
    libc::SYS_getresgid,
    libc::SYS_getresuid,
    libc::SYS_getrusage,
    libc::SYS_getsid,
    libc::SYS_gettid,
    libc::SYS_getuid,
    libc::SYS_sysinfo,
    libc::SYS_times,
    libc::SYS_uname,
    // Exit.
    libc::SYS_exit,
    libc::SYS_exit_group,
    // Calls that only this architecture has.
    #[cfg(target_arch = "x86_64")]
    libc::SYS_access,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_alarm,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_arch_prctl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_dup2,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_getpgrp,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_getrlimit,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_lstat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_pause,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_select,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_stat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_time,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_not_too_long_and_have_the_placeholder_twice() {
        /// The longest filter that the kernel allows.
        const MAX_INSTRUCTIONS: usize = 4096;
        let filters = filters().unwrap();
        for filter in filters.zygote.iter().chain([&filters.child]) {
            assert_eq!(filter.len() % 8, 0);
            assert!(filter.len() / 8 < MAX_INSTRUCTIONS);
            // It must fit into a message to the zygote.
            assert!(filter.len() < 1 << 16);
        }
        let placeholder = (OWN_PID as u32).to_ne_bytes();
        let operands = filters.child.chunks(8);
        let operands = operands.filter(|instruction| instruction[4..] == placeholder);
        // One for each way to send a signal.
        assert_eq!(operands.count(), 2);
        let anywhere = filters.child.windows(4);
        let anywhere = anywhere.filter(|window| *window == placeholder);
        assert_eq!(anywhere.count(), 2);
    }

    #[test]
    fn no_call_is_both_allowed_and_killed() {
        for call in KILLED {
            assert!(
                !ALLOWED.contains(call) && !FOR_ZYGOTES.contains(call),
                "{call}"
            );
        }
    }
}
