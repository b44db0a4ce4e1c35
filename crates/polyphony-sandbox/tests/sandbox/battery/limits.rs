//! Programs that try to undo their confinement.

use super::{Deed::*, Expected::*, Fate::*, Hostile, row};

pub(super) const ROWS: &[Hostile] = &[
    row(
        "raises its limit of memory",
        Body("import resource\nreturn resource.setrlimit(resource.RLIMIT_AS, (-1, -1)) or 1"),
        // Python's message for the system's error.
        Both(Fails("ValueError: not allowed to raise maximum limit")),
    ),
    row(
        "raises its CPU time limit within the hard limit",
        Body(
            r"
import resource
_, most = resource.getrlimit(resource.RLIMIT_CPU)
return call('prlimit64', 0, 0, (ctypes.c_long * 2)(most, most), 0) or 1",
        ),
        Both(IsRefused),
    ),
    row(
        "sets a limit from an address that looks like none to a filter",
        // The lower half of the address is 0. If this worked, reaching the limit would look like a kill by
        // the system, since the kernel kills at the hard limit.
        Body(
            r"
at = memory(4096, at=1 << 32, flags=0x100000)
ctypes.memmove(at, bytes((ctypes.c_long * 2)(1, 1)), 16)
call('prlimit64', 0, 0, at, 0)
while True: pass",
        ),
        Both(IsRefused),
    ),
    row(
        "sets a bystander's limits",
        Body("import resource\nreturn resource.prlimit(BYSTANDER, resource.RLIMIT_CPU, (1, 1))"),
        Both(IsRefused),
    ),
    row(
        "becomes root",
        Body("return os.setuid(0) or 1"),
        Both(IsRefused),
    ),
    row(
        "becomes root in every way",
        Body("return os.setresuid(0, 0, 0) or 1"),
        Both(IsRefused),
    ),
    row(
        "joins root's group",
        Body("return os.setgid(0) or 1"),
        Both(IsRefused),
    ),
    row(
        "joins groups",
        Body("return os.setgroups([0]) or 1"),
        Both(IsRefused),
    ),
    row(
        "takes capabilities",
        Body(
            "return call('capset', (ctypes.c_int * 2)(0x20080522, 0), (ctypes.c_uint * 6)(*[0xffffffff] * 6)) or 1",
        ),
        Both(IsRefused),
    ),
    row(
        "allows itself new privileges",
        Body("return call('prctl', 38, 0, 0, 0, 0) or 1"),
        Both(IsRefused),
    ),
    row(
        "lets others look into it",
        Body("return call('prctl', 4, 1, 0, 0, 0) or 1"),
        Both(IsRefused),
    ),
    row(
        "outlives its zygote",
        Body("return call('prctl', 1, 0, 0, 0, 0) or 1"),
        Both(IsRefused),
    ),
    row(
        "keeps its capabilities",
        Body("return call('prctl', 47, 2, 0, 0, 0) or 1"),
        Both(IsRefused),
    ),
    row(
        "adopts orphans",
        Body("return call('prctl', 36, 1, 0, 0, 0) or 1"),
        Both(IsRefused),
    ),
    row(
        "installs a filter of its own",
        Body(
            r"
allow = (ctypes.c_ushort * 4)(6, 0, 0, 0x7fff)
program = (ctypes.c_long * 2)(1, ctypes.addressof(allow))
return call('prctl', 22, 2, program, 0, 0) or 1",
        ),
        Both(IsRefused),
    ),
    row(
        "installs a filter that asks it",
        Body(
            r"
notify = (ctypes.c_ushort * 4)(6, 0, 0, 0x7fc0)
program = (ctypes.c_long * 2)(1, ctypes.addressof(notify))
return call('seccomp', 1, 8, program)",
        ),
        Both(IsRefused),
    ),
    row(
        "makes Landlock rules of its own",
        Body("return call('landlock_create_ruleset', 0, 0, 1)"),
        Both(IsRefused),
    ),
    row(
        "runs before all others",
        Body("return os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)) or 1"),
        Both(IsRefused),
    ),
    row(
        "runs more often than others",
        Body("return os.nice(-20)"),
        Both(IsRefused),
    ),
];
