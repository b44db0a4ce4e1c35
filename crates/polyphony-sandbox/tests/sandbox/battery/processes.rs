//! Programs that try to become several processes, or another program.

use super::{Deed::*, Expected::*, Fate::*, Hostile, row};

pub(super) const ROWS: &[Hostile] = &[
    row("forks", Body("return os.fork()"), Both(IsRefused)),
    row(
        "forks at the second call",
        SecondCall("return os.fork() and 2"),
        Both(IsRefused),
    ),
    row(
        "forks while it is loaded",
        Program("import os\nos.fork()\ndef f(): return 1"),
        Both(IsRefused),
    ),
    row(
        "tries to fork without end",
        Body(
            r"
while True:
    try: os.fork()
    except OSError: pass",
        ),
        Both(TimesOut),
    ),
    #[cfg(target_arch = "x86_64")]
    row(
        "forks by vfork",
        Body("return call('vfork')"),
        Both(IsRefused),
    ),
    row(
        "forks by clone",
        Body("return call('clone', 17, 0, 0, 0, 0)"),
        Both(IsRefused),
    ),
    row(
        "clones a sibling that shares its memory",
        // CLONE_VM, CLONE_VFORK, CLONE_PARENT.
        Body("return call('clone', 0xc100 | 17, memory(1 << 16) + (1 << 16), 0, 0, 0)"),
        Both(IsRefused),
    ),
    row(
        "clones into new namespaces",
        // CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNS.
        Body("return call('clone', 0x30020000 | 17, 0, 0, 0, 0)"),
        Both(IsRefused),
    ),
    row(
        "starts a thread in a namespace of its own",
        // CLONE_VM, CLONE_SIGHAND, CLONE_THREAD, which alone may pass, and CLONE_NEWUTS.
        Body("return call('clone', 0x4010900, memory(1 << 16) + (1 << 16), 0, 0, 0)"),
        Both(IsRefused),
    ),
    row(
        "forks by clone3",
        Body("return call('clone3', (ctypes.c_uint64 * 11)(0, 0, 0, 0, 17), 88)"),
        Both(Fails("OSError: [Errno 38]")),
    ),
    row(
        "becomes a daemon",
        Body(
            r"
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.closerange(0, 64)
        while True: pass
    os._exit(0)
return 1",
        ),
        Both(IsRefused),
    ),
    row(
        "leaves its session",
        Body("return os.setsid() or 1"),
        Both(IsRefused),
    ),
    row(
        "leaves its group",
        Body("return os.setpgid(0, 0) or 1"),
        Both(IsRefused),
    ),
    row(
        "forks in a process of the library",
        Body(
            "import multiprocessing\nprocess = multiprocessing.Process(target=print)\nprocess.start()",
        ),
        Both(IsRefused),
    ),
    row(
        "forks a terminal",
        Body("return os.forkpty()[0]"),
        // Python's version decides whether the fork or the terminal is reported.
        OneOf(&[IsRefused, Fails("FileNotFoundError")]),
    ),
    row(
        "runs a program",
        Body("os.execv('/bin/true', ['true'])"),
        Both(IsRefused),
    ),
    row(
        "runs a program at the second call",
        SecondCall("os.execv('/bin/true', ['true'])"),
        Both(IsRefused),
    ),
    row(
        "runs its interpreter",
        Body("import sys\nos.execv(sys.executable, ['python', '-c', 'print(1)'])"),
        Both(IsRefused),
    ),
    row(
        "runs a program by its directory",
        Body("return call('execveat', -100, b'/bin/true', 0, 0, 0)"),
        Both(IsRefused),
    ),
    row(
        "runs an open file",
        Body("os.execve(os.open(os.__file__, os.O_RDONLY), ['x'], {})"),
        Both(IsRefused),
    ),
    row(
        "runs a set-user-id program",
        Body("os.execv('/bin/su', ['su', '-c', 'id'])"),
        Both(IsRefused),
    ),
    row(
        "runs a set-user-id program past its library",
        Body("os.posix_spawn('/usr/bin/passwd', ['passwd', '-S'], {})"),
        Both(IsRefused),
    ),
    row(
        "runs a shell",
        Body("import subprocess\nreturn subprocess.run('true', shell=True).returncode"),
        Both(IsRefused),
    ),
    row(
        "runs a shell by the C library",
        Body("if os.system('true'): raise OSError('no shell')\nreturn 1"),
        Both(Fails("OSError: no shell")),
    ),
    row(
        "starts threads without end",
        Body(
            r"
import threading, time
threading.stack_size(32768)
while True: threading.Thread(target=time.sleep, args=(99,), daemon=True).start()",
        ),
        // In the full tier threads are counted. In the Landlock tier they are not, so memory runs out:
        // for a stack or a list, as the interpreter decides. If a new thread itself runs out of memory,
        // Python waits for it.
        OneOf(&[Fails("can't start new thread"), RunsOutOfMemory, TimesOut]),
    ),
    row(
        "starts threads with large stacks",
        Body(
            r"
import threading
threading.stack_size(512 << 20)
threading.Thread(target=print).start()",
        ),
        Both(Fails("can't start new thread")),
    ),
];
