//! Programs that take all the memory, or break their own interpreter.

use super::{Deed::*, Expected::*, Fate::*, Hostile, row};

pub(super) const ROWS: &[Hostile] = &[
    row(
        "asks for a long list",
        Body("return len([0] * (1 << 27))"),
        Both(RunsOutOfMemory),
    ),
    row(
        "asks for lists without end",
        Body("lists = []\nwhile True: lists.append([0] * 100_000)"),
        Both(RunsOutOfMemory),
    ),
    row(
        "doubles a string",
        Body("text = 'x'\nwhile True: text += text"),
        Both(RunsOutOfMemory),
    ),
    row(
        "asks for more than there is",
        Body("return len(bytearray(1 << 46))"),
        Both(RunsOutOfMemory),
    ),
    row(
        "grows at the second call",
        SecondCall("return len(list(iter(int, 1)))"),
        Both(RunsOutOfMemory),
    ),
    row(
        "grows while it is loaded",
        Program("kept = {}\nwhile True: kept[len(kept)] = str(len(kept)) * 100"),
        Both(RunsOutOfMemory),
    ),
    row(
        "continues without memory",
        Body(
            r"
kept = []
while True:
    try: kept.append(bytearray(1 << 16))
    except MemoryError: pass",
        ),
        Both(TimesOut),
    ),
    row(
        "maps memory",
        Body("import mmap\nreturn len(mmap.mmap(-1, 1 << 29))"),
        Both(RunsOutOfMemory),
    ),
    row(
        "maps memory piece by piece",
        Body("for _ in range(1 << 12): memory(1 << 20, flags=0x8000)\nreturn 1"),
        Both(RunsOutOfMemory),
    ),
    row(
        "locks its memory",
        Body("return call('mlockall', 3)"),
        Both(IsRefused),
    ),
    row(
        "writes to memory that it did not get",
        Body(
            "libc.malloc.restype = ctypes.c_void_p\nctypes.memset(libc.malloc(ctypes.c_size_t(1 << 40)), 1, 1 << 40)",
        ),
        Both(Fails("SIGSEGV")),
    ),
    row(
        "recurses",
        Body("return f()"),
        Both(Fails("RecursionError")),
    ),
    row(
        "recurses past its interpreter's stack",
        Body(
            r"
import sys
sys.setrecursionlimit(1 << 30)
deeper = lambda n: sorted([n], key=deeper)
return deeper(1)",
        ),
        // Since 3.12, Python counts calls through C, whatever the limit is.
        OneOf(&[
            Fails("SIGSEGV, as after very deep recursion"),
            Fails("RecursionError"),
        ]),
    ),
    row(
        "reads a bad pointer",
        Body("return ctypes.string_at(0)"),
        Both(Fails("SIGSEGV")),
    ),
    row(
        "jumps to a bad address",
        Body("return ctypes.CFUNCTYPE(ctypes.c_long)(16)()"),
        Both(Fails("SIGSEGV")),
    ),
    row(
        "crashes at the second call",
        SecondCall("ctypes.memset(id(None), 255, 64)\nreturn None"),
        Both(Fails("SIGSEGV")),
    ),
    row(
        "unmaps everything",
        Body("libc.munmap(ctypes.c_void_p(0), ctypes.c_size_t((1 << 47) - 4096))"),
        Both(Fails("SIGSEGV")),
    ),
    row("aborts", Body("os.abort()"), Both(Fails("SIGABRT"))),
    row(
        "ends itself by a signal that it ignores, and by one that it does not",
        Body(
            r"
import signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
os.kill(os.getpid(), signal.SIGTERM)
signal.setitimer(signal.ITIMER_REAL, 0.01)
signal.pause()",
        ),
        Both(Fails("SIGALRM")),
    ),
    row(
        "nests data deeply",
        Body("data = []\nfor _ in range(100_000): data = [data]\nreturn data"),
        Both(Fails("a value is nested more than 100 deep")),
    ),
    row(
        "nests data in itself",
        Body("data = []\ndata.append(data)\nreturn data"),
        Both(Fails("a value is nested more than 100 deep")),
    ),
    row(
        "returns a very long text",
        Body("return 'x' * (5 << 20)"),
        Both(Fails("a value takes more than 4 MiB")),
    ),
    row(
        "answers with the same list over and over",
        Body("data = [0] * 10\nfor _ in range(20): data = [data] * 10\nreturn data"),
        Both(Fails("a value takes more than 4 MiB")),
    ),
    row(
        "raises a very long error",
        Body("raise ValueError('x' * (50 << 20))"),
        Both(Fails("ValueError: xxx")),
    ),
    row(
        "opens descriptors without end",
        Body("while True: os.dup(0)"),
        Both(Fails("OSError: [Errno 24] Too many open files")),
    ),
];
