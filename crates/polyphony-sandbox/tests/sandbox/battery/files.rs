//! Programs that try to leave something: files, links, memory and queues that others can reach.

use super::{Deed::*, Expected::*, Fate::*, Hostile, row};

pub(super) const ROWS: &[Hostile] = &[
    row(
        "writes over the canary",
        Body("return open(CANARY, 'w').write('x')"),
        Both(IsRefused),
    ),
    row(
        "writes over the canary at the second call",
        SecondCall("return open(CANARY, 'w').write('x')"),
        Both(IsRefused),
    ),
    row(
        "appends to the canary",
        Body("return open(CANARY, 'a').write('x')"),
        Both(IsRefused),
    ),
    row(
        "writes into the canary in place",
        Body("return os.pwrite(os.open(CANARY, os.O_RDWR), b'x', 0)"),
        Both(IsRefused),
    ),
    row(
        "empties the canary while it opens it",
        Body("return os.open(CANARY, os.O_TRUNC)"),
        Both(IsRefused),
    ),
    row(
        "cuts the canary",
        Body("return os.truncate(CANARY, 0) or 1"),
        Both(IsRefused),
    ),
    row(
        "removes the canary",
        Body("return os.unlink(CANARY) or 1"),
        Both(IsRefused),
    ),
    row(
        "renames the canary",
        Body("return os.rename(CANARY, CANARY + '2') or 1"),
        Both(IsRefused),
    ),
    row(
        "changes the canary's mode",
        Body("return os.chmod(CANARY, 0o4777) or 1"),
        Both(IsRefused),
    ),
    row(
        "changes the canary's owner",
        Body("return os.chown(CANARY, os.getuid(), -1) or 1"),
        Both(IsRefused),
    ),
    row(
        "changes the canary's times",
        Body("return os.utime(CANARY, (0, 0)) or 1"),
        Both(IsRefused),
    ),
    row(
        "gives the canary an attribute",
        Body("return os.setxattr(CANARY, 'user.x', b'x') or 1"),
        Both(IsRefused),
    ),
    row(
        "makes a hard link",
        Body("return os.link(CANARY, CANARY + '2') or 1"),
        Both(IsRefused),
    ),
    row(
        "makes a link",
        Body("return os.symlink('/etc', '/tmp/' + MARK) or 1"),
        Both(IsRefused),
    ),
    row(
        "makes a file",
        Body("return open('/tmp/' + MARK, 'x').write('x')"),
        Both(IsRefused),
    ),
    row(
        "makes a folder",
        Body("return os.mkdir('/tmp/' + MARK) or 1"),
        Both(IsRefused),
    ),
    row(
        "makes a pipe with a name",
        Body("return os.mkfifo('/tmp/' + MARK) or 1"),
        Both(IsRefused),
    ),
    row(
        "makes a device",
        Body("return os.mknod('/tmp/' + MARK, 0o60666, os.makedev(8, 0)) or 1"),
        Both(IsRefused),
    ),
    row(
        "makes a file without a name",
        Body("return os.open('/tmp', os.O_TMPFILE | os.O_RDWR)"),
        Both(IsRefused),
    ),
    row(
        "makes a temporary file",
        Body("import tempfile\nreturn tempfile.NamedTemporaryFile(prefix=MARK, delete=False).name"),
        Both(Fails("No usable temporary directory")),
    ),
    row(
        "writes where its library is",
        Body("return open(os.path.join(os.path.dirname(os.__file__), MARK), 'w').write('x')"),
        Both(IsRefused),
    ),
    row(
        "writes into its library by memory",
        // A writable shared map needs a writable descriptor.
        Body(
            r"
import mmap
file = os.open(os.__file__, os.O_RDONLY)
return len(mmap.mmap(file, 4096, mmap.MAP_SHARED, mmap.PROT_WRITE))",
        ),
        Both(IsRefused),
    ),
    row(
        "says what is to be run after a crash",
        Body("return open('/proc/sys/kernel/core_pattern', 'w').write('|/tmp/x')"),
        Both(IsRefused),
    ),
    row(
        "wants to be ended last",
        Body("return open('/proc/self/oom_score_adj', 'w').write('-1000')"),
        Both(IsRefused),
    ),
    row(
        "makes a file in memory",
        Body("return os.memfd_create(MARK)"),
        Both(IsRefused),
    ),
    row(
        "makes a secret file in memory",
        Body("return call('memfd_secret', 0)"),
        Both(IsRefused),
    ),
    row("makes a pipe", Body("return os.pipe()[0]"), Both(IsRefused)),
    row(
        "watches files",
        Body("return call('inotify_init1', 0)"),
        Both(IsRefused),
    ),
    row(
        "shares memory as System V does",
        Body("return call('shmget', KEY, 4096, 0o1666)"),
        Both(IsRefused),
    ),
    row(
        "makes semaphores as System V does",
        Body("return call('semget', KEY, 1, 0o1666)"),
        Both(IsRefused),
    ),
    row(
        "makes a queue as System V does",
        Body("return call('msgget', KEY, 0o1666)"),
        Both(IsRefused),
    ),
    row(
        "shares memory as POSIX does",
        Body(
            "import _posixshmem\nreturn _posixshmem.shm_open('/' + MARK, os.O_CREAT | os.O_RDWR, 0o666)",
        ),
        Both(IsRefused),
    ),
    row(
        "shares memory by the library",
        Body(
            "from multiprocessing import shared_memory\nreturn shared_memory.SharedMemory(MARK, True, 4096).name",
        ),
        Both(IsRefused),
    ),
    row(
        "makes a semaphore as POSIX does",
        Body(
            "import _multiprocessing\nreturn _multiprocessing.SemLock(0, 1, 1, '/' + MARK, False).name",
        ),
        Both(IsRefused),
    ),
    row(
        "makes a queue as POSIX does",
        Body("return call('mq_open', MARK.encode(), os.O_CREAT | os.O_RDWR, 0o666, 0)"),
        Both(IsRefused),
    ),
];
