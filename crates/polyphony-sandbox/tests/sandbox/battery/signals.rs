//! Programs that try to end, stop or disturb other processes, or to look killed by the system.

use super::{Deed::*, Expected::*, Fate::*, Hostile, row};

pub(super) const ROWS: &[Hostile] = &[
    row(
        "kills a bystander",
        Body("return os.kill(BYSTANDER, 9) or 1"),
        Both(IsRefused),
    ),
    row(
        "kills a bystander at the second call",
        SecondCall("return os.kill(BYSTANDER, 9) or 2"),
        Both(IsRefused),
    ),
    row(
        "stops a bystander",
        Body("return os.kill(BYSTANDER, 19) or 1"),
        Both(IsRefused),
    ),
    row(
        "kills everyone",
        Body("return os.kill(-1, 9) or 1"),
        Both(IsRefused),
    ),
    row(
        "kills its group",
        Body("return os.kill(0, 9) or 1"),
        Both(IsRefused),
    ),
    row(
        "kills its zygote",
        Body("return os.kill(os.getppid(), 9) or 1"),
        Both(IsRefused),
    ),
    row(
        "kills the trainer",
        Body("return os.kill(TRAINER, 9) or 1"),
        Both(IsRefused),
    ),
    row(
        "kills a bystander by its thread",
        Body("return call('tgkill', BYSTANDER, BYSTANDER, 9) or 1"),
        Both(IsRefused),
    ),
    row(
        "kills a bystander by its thread alone",
        Body("return call('tkill', BYSTANDER, 9) or 1"),
        Both(IsRefused),
    ),
    row(
        "queues a signal for a bystander",
        Body("return call('rt_sigqueueinfo', BYSTANDER, 9, (ctypes.c_int * 32)(9, 0, -1)) or 1"),
        Both(IsRefused),
    ),
    row(
        "queues a signal for a bystander's thread",
        Body(
            "return call('rt_tgsigqueueinfo', BYSTANDER, BYSTANDER, 9, \
             (ctypes.c_int * 32)(9, 0, -1)) or 1",
        ),
        Both(IsRefused),
    ),
    row(
        "opens a bystander",
        Body("return call('pidfd_open', BYSTANDER, 0)"),
        Both(IsRefused),
    ),
    row(
        "signals by a descriptor of a process",
        Body("return call('pidfd_send_signal', 3, 9, 0, 0) or 1"),
        Both(IsRefused),
    ),
    row(
        "lets a bystander own its signals",
        Body("import fcntl\nreturn fcntl.fcntl(3, fcntl.F_SETOWN, BYSTANDER) or 1"),
        Both(IsRefused),
    ),
    row(
        "lets a bystander own its signals in the newer way",
        Body(
            "import fcntl, struct\nreturn len(fcntl.fcntl(3, 15, struct.pack('ii', 1, BYSTANDER)))",
        ),
        Both(IsRefused),
    ),
    row(
        "chooses a deadly signal for its descriptors",
        Body("import fcntl\nreturn fcntl.fcntl(3, 10, 9) or 1"),
        Both(IsRefused),
    ),
    row(
        "asks for signals about its descriptors",
        Body("import fcntl\nreturn fcntl.fcntl(3, fcntl.F_SETFL, os.O_ASYNC) or 1"),
        Both(IsRefused),
    ),
    row(
        "makes a bystander the owner of its socket",
        Body(
            "import fcntl, struct\nfor fd in range(3, 64):\n    try: return len(fcntl.ioctl(fd, 0x8901, struct.pack('i', BYSTANDER)))\n    except PermissionError: raise\n    except OSError: pass",
        ),
        Both(IsRefused),
    ),
    row(
        "lets a timer signal another thread",
        Body(
            "return call('timer_create', 1, (ctypes.c_int * 16)(0, 0, 9, 4, BYSTANDER), (ctypes.c_int * 2)())",
        ),
        Both(IsRefused),
    ),
    row(
        "looks killed by the system",
        Body("return os.kill(os.getpid(), 9) or 1"),
        Both(IsRefused),
    ),
    row(
        "looks killed by the system, by way of its thread",
        Body("return call('tgkill', os.getpid(), os.getpid(), 9) or 1"),
        Both(IsRefused),
    ),
    row(
        "looks killed by the system, with a number that is too wide for a filter",
        Body("return call('kill', os.getpid() | 1 << 32, 9 | 1 << 32) or 1"),
        Both(IsRefused),
    ),
    row(
        "stops itself so that nothing wakes it",
        Body("return os.kill(os.getpid(), 19) or 1"),
        Both(IsRefused),
    ),
    row(
        "slows a bystander down",
        Body("return os.setpriority(os.PRIO_PROCESS, BYSTANDER, 19) or 1"),
        Both(IsRefused),
    ),
    row(
        "slows a bystander's files down",
        Body("return call('ioprio_set', 1, BYSTANDER, 3 << 13) or 1"),
        Both(IsRefused),
    ),
    row(
        "moves a bystander to one core",
        Body("return os.sched_setaffinity(BYSTANDER, [0]) or 1"),
        Both(IsRefused),
    ),
    row(
        "asks whether a bystander is there",
        Body("return os.getpgid(BYSTANDER)"),
        // Without namespaces, process numbers are not secret.
        Tiers {
            full: Fails("ProcessLookupError"),
            landlock: Passes,
        },
    ),
    row(
        "asks what a bystander waits for",
        Body(
            "return call('get_robust_list', BYSTANDER, (ctypes.c_long * 1)(), (ctypes.c_long * 1)())",
        ),
        Tiers {
            full: Fails("ProcessLookupError"),
            landlock: IsRefused,
        },
    ),
];
