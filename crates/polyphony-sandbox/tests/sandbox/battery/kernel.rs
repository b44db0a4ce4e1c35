//! Programs that make system calls without an honest use here. Most of them are killed for it.

use super::{Deed::*, Expected::*, Fate::*, Hostile, row};

pub(super) const ROWS: &[Hostile] = &[
    row(
        "traces a bystander",
        Body("return call('ptrace', 16, BYSTANDER, 0, 0)"),
        Both(IsKilled),
    ),
    row(
        "lets its parent trace it",
        Body("return call('ptrace', 0, 0, 0, 0)"),
        Both(IsKilled),
    ),
    row(
        "reads a bystander's memory",
        Body("return call('process_vm_readv', BYSTANDER, 0, 0, 0, 0, 0)"),
        Both(IsKilled),
    ),
    row(
        "writes to its zygote's memory",
        Body("return call('process_vm_writev', os.getppid(), 0, 0, 0, 0, 0)"),
        Both(IsKilled),
    ),
    row(
        "advises a bystander's memory away",
        Body("return call('process_madvise', 3, 0, 0, 21, 0)"),
        Both(IsKilled),
    ),
    row(
        "takes a descriptor from a bystander",
        Body("return call('pidfd_getfd', 3, 0, 0)"),
        Both(IsKilled),
    ),
    row(
        "compares itself with a bystander",
        Body("return call('kcmp', os.getpid(), BYSTANDER, 0, 0, 0)"),
        Both(IsKilled),
    ),
    row(
        "leaves its namespaces",
        Body("return call('unshare', 0x10000000)"),
        Both(IsKilled),
    ),
    row(
        "leaves its namespaces at the second call",
        SecondCall("return call('unshare', 0x10000000)"),
        Both(IsKilled),
    ),
    row(
        "enters other namespaces",
        Body("return call('setns', 3, 0)"),
        Both(IsKilled),
    ),
    row(
        "mounts",
        Body("return call('mount', b'none', b'/tmp', b'tmpfs', 0, 0)"),
        Both(IsKilled),
    ),
    row(
        "unmounts",
        Body("return call('umount2', b'/', 2)"),
        Both(IsKilled),
    ),
    row(
        "opens a file system",
        Body("return call('fsopen', b'proc', 0)"),
        Both(IsKilled),
    ),
    row(
        "changes the root",
        Body("return call('pivot_root', b'.', b'.')"),
        Both(IsKilled),
    ),
    row(
        "changes its root",
        Body("os.chroot('/')\nreturn 1"),
        Both(IsKilled),
    ),
    row(
        "loads a program into the kernel",
        Body("return call('bpf', 0, 0, 0)"),
        Both(IsKilled),
    ),
    row(
        "loads a module",
        Body("return call('finit_module', 0, b'', 0)"),
        Both(IsKilled),
    ),
    row(
        "loads another kernel",
        Body("return call('kexec_load', 0, 0, 0, 0)"),
        Both(IsKilled),
    ),
    row(
        "starts the machine again",
        Body("return call('reboot', 0xfee1dead, 672274793, 0, 0)"),
        Both(IsKilled),
    ),
    row(
        "queues calls past the filter",
        Body("return call('io_uring_setup', 1, (ctypes.c_int * 30)())"),
        Both(IsKilled),
    ),
    row(
        "looks at its keys",
        Body("return call('keyctl', 0, -3, 0, 0, 0)"),
        Both(IsKilled),
    ),
    row(
        "adds a key",
        Body("return call('add_key', b'user', b'x', b'x', 1, -3)"),
        Both(IsKilled),
    ),
    row(
        "asks for a key",
        Body("return call('request_key', b'user', b'x', 0, -3)"),
        Both(IsKilled),
    ),
    row(
        "measures the machine",
        Body("return call('perf_event_open', (ctypes.c_int * 32)(), 0, -1, -1, 0)"),
        Both(IsKilled),
    ),
    row(
        "handles its own page faults",
        Body("return call('userfaultfd', 1)"),
        Both(IsKilled),
    ),
    row(
        "names a file by its handle",
        Body(
            "return call('name_to_handle_at', -100, b'/', (ctypes.c_int * 40)(128), (ctypes.c_int * 1)(), 0)",
        ),
        Both(IsKilled),
    ),
    row(
        "opens a file by its handle",
        Body("return call('open_by_handle_at', 0, (ctypes.c_int * 40)(8, 1, 2), 0)"),
        Both(IsKilled),
    ),
    row(
        "watches all files",
        Body("return call('fanotify_init', 0, 0)"),
        Both(IsKilled),
    ),
    row(
        "changes the layout of its memory",
        Body("return call('personality', 0x40000)"),
        Both(IsKilled),
    ),
    row(
        "reads the kernel's messages",
        Body("return call('syslog', 3, (ctypes.c_char * 64)(), 64)"),
        Both(IsKilled),
    ),
    row(
        "sets the clock",
        Body("import time\nreturn time.clock_settime(time.CLOCK_REALTIME, 0) or 1"),
        Both(IsKilled),
    ),
    row(
        "names the host",
        Body("return call('sethostname', b'x', 1) or 1"),
        Both(IsKilled),
    ),
];
