//! Which system calls a zygote and its children may make.
//!
//! Three filters are laid on each other, and the kernel takes the gravest answer:
//!
//! 1. *Killed*: calls with no place in any program that is judged here, and every other entry point
//!    into the kernel (x32, 32-bit). The zygote installs it first; children inherit it.
//! 2. *Not there*: `clone3`, whose arguments no filter can see, so that the C library falls back to
//!    `clone`. Likewise installed by the zygote.
//! 3. *Allowed*: all else is refused with "operation not permitted". The zygote has one with which
//!    it can fork, wait and pass on a socket; each child adds one without these.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Width, SeccompCmpOp as Is, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch, sock_filter,
};

/// Stands in a filter where the child's own process number belongs; the zygote puts it there.
const OWN_PID: u64 = 0x504f_4c59;

/// The filters, each as the bytes that the kernel takes.
pub(super) struct Filters {
    /// What a zygote installs for itself and all its children, in order.
    pub(super) zygote: Vec<Vec<u8>>,
    /// What each child adds.
    pub(super) child: Vec<u8>,
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Lays out all filters for this machine.
///
/// # Errors
///
/// The reason, on a processor for which there are none.
pub(super) fn filters() -> Result<Filters, String> {
    let arch = TargetArch::try_from(std::env::consts::ARCH)
        .map_err(|_| format!("there are no filters for {}", std::env::consts::ARCH))?;
    let not_there = SeccompAction::Errno(libc::ENOSYS as u32);
    let refused = SeccompAction::Errno(libc::EPERM as u32);
    let build = |rules: Rules, listed: &SeccompAction, other: &SeccompAction| {
        let filter = SeccompFilter::new(rules, other.clone(), listed.clone(), arch);
        filter
            .and_then(BpfProgram::try_from)
            .map_err(|error| error.to_string())
    };
    let allow = &SeccompAction::Allow;
    let mut killed = foreign_entry_points();
    killed.extend(build(all(KILLED)?, &SeccompAction::KillProcess, allow)?);
    let clone3 = build(all(&[libc::SYS_clone3])?, &not_there, allow)?;
    Ok(Filters {
        zygote: vec![
            bytes(&killed),
            bytes(&clone3),
            bytes(&build(zygote_rules()?, allow, &refused)?),
        ],
        child: bytes(&build(child_rules()?, allow, &refused)?),
    })
}

/// Kills what comes in by the x32 entry point, which the architecture alone does not tell apart.
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

/// These calls, whatever their arguments.
fn all(calls: &[i64]) -> Result<Rules, String> {
    Ok(calls.iter().map(|call| (*call, Vec::new())).collect())
}

/// A rule that holds where all the conditions on arguments do: number, comparison, value.
fn rule(conditions: &[(u8, Is, u64)]) -> Result<SeccompRule, String> {
    rule_on(Width::Dword, conditions)
}

/// The same for arguments of this width: half of what the kernel takes whole decides nothing.
fn rule_on(width: Width, conditions: &[(u8, Is, u64)]) -> Result<SeccompRule, String> {
    let conditions = conditions
        .iter()
        .map(|(argument, is, value)| {
            SeccompCondition::new(*argument, width.clone(), is.clone(), *value)
        })
        .collect::<Result<_, _>>();
    conditions
        .and_then(SeccompRule::new)
        .map_err(|error| error.to_string())
}

fn zygote_rules() -> Result<Rules, String> {
    let mut rules = child_rules()?;
    rules.extend(all(FOR_ZYGOTES)?);
    // Fork, for the children, besides threads.
    rules.insert(libc::SYS_clone, Vec::new());
    rules.insert(libc::SYS_prlimit64, Vec::new());
    // A child signals itself before it knows of a filter.
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
    // One's own limits may be read. The new ones are at an address, which can be half zero.
    rules.insert(
        libc::SYS_prlimit64,
        vec![rule_on(Width::Qword, &[(0, Is::Eq, 0), (2, Is::Eq, 0)])?],
    );
    // One may signal oneself, but not so that it looks like the host's doing.
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

/// Descriptor flags, but not who is signalled when a descriptor is ready.
const FCNTL: &[u64] = &[
    libc::F_DUPFD as u64,
    libc::F_DUPFD_CLOEXEC as u64,
    libc::F_GETFD as u64,
    libc::F_SETFD as u64,
    libc::F_GETFL as u64,
];

/// Whether something is a terminal, and inheritance by exec.
const IOCTL: &[u64] = &[libc::TCGETS, libc::FIOCLEX, libc::FIONCLEX];

/// Names of threads, and of memory for the allocator.
const PRCTL: &[u64] = &[
    libc::PR_SET_NAME as u64,
    libc::PR_GET_NAME as u64,
    libc::PR_SET_VMA as u64,
];

/// What a zygote needs beside what its children may do.
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

/// Calls that have no honest use here.
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

/// What an interpreter needs to compute, to read its library and to run threads.
const ALLOWED: &[i64] = &[
    // Memory.
    libc::SYS_brk,
    libc::SYS_madvise,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_munmap,
    // Files and descriptors that are there already.
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
    // Refused by its own filter, with the answer that makes the C library fall back.
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
    // Signals to oneself.
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigpending,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigsuspend,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_sigaltstack,
    // Who and where one is.
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
    // The end.
    libc::SYS_exit,
    libc::SYS_exit_group,
    // What only this architecture has.
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
    fn the_kernel_takes_the_filters_and_the_zygote_finds_where_to_put_a_number() {
        /// What the kernel allows in one filter.
        const INSTRUCTIONS: usize = 4096;
        let filters = filters().unwrap();
        for filter in filters.zygote.iter().chain([&filters.child]) {
            assert_eq!(filter.len() % 8, 0);
            assert!(filter.len() / 8 < INSTRUCTIONS);
            // A message of a zygote's socket must hold it.
            assert!(filter.len() < 1 << 16);
        }
        let own = (OWN_PID as u32).to_ne_bytes();
        let places = filters.child.chunks(8).filter(|chunk| chunk[4..] == own);
        // One for each way to send a signal.
        assert_eq!(places.count(), 2);
        let anywhere = filters.child.windows(4).filter(|window| *window == own);
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
