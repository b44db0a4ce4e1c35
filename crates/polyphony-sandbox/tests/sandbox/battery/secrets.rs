//! Programs that look for what is not meant for them.

use super::{Deed::*, Expected::*, Fate::*, HIDDEN, Hostile, row};

pub(super) const ROWS: &[Hostile] = &[
    row(
        "reads the canary",
        Body("return open(CANARY).read()"),
        HIDDEN,
    ),
    row(
        "reads the canary at the second call",
        SecondCall("return open(CANARY).read()"),
        HIDDEN,
    ),
    row(
        "reads the canary by a system call",
        Body("return os.read(call('openat', -100, CANARY.encode(), 0, 0), 64)"),
        HIDDEN,
    ),
    row(
        "reads the canary by a newer system call",
        Body("return call('openat2', -100, CANARY.encode(), (ctypes.c_long * 3)(), 24)"),
        Both(IsRefused),
    ),
    row(
        "reads the canary by way of the library's folder",
        Body("return open(os.path.dirname(os.__file__) + '/' + '../' * 30 + CANARY[1:]).read()"),
        HIDDEN,
    ),
    row(
        "reads the canary from a descriptor of the root",
        Body(
            r"
root = os.open('/', os.O_PATH)
return os.read(os.open(CANARY[1:], os.O_RDONLY, dir_fd=root), 64)",
        ),
        HIDDEN,
    ),
    row(
        "opens the canary again by a descriptor that only names it",
        Body(
            r"
named = os.open(CANARY, os.O_PATH)
return os.read(os.open(f'/proc/self/fd/{named}', os.O_RDONLY), 64)",
        ),
        HIDDEN,
    ),
    row(
        "asks for the canary's size",
        Body("return os.stat(CANARY).st_size"),
        // Landlock does not hide a file's existence, size and owner.
        Tiers {
            full: Fails("FileNotFoundError"),
            landlock: Passes,
        },
    ),
    row(
        "goes to the canary's folder",
        Body("os.chdir(FOLDER)\nreturn 1"),
        Both(IsRefused),
    ),
    row(
        "asks where a link leads",
        Body("return os.readlink('/proc/self/exe')"),
        Both(IsRefused),
    ),
    row(
        "lists the canary's folder",
        Body("return os.listdir(FOLDER)"),
        HIDDEN,
    ),
    row(
        "lists the root",
        Body("return os.listdir('/')"),
        Both(IsRefused),
    ),
    row("lists /etc", Body("return os.listdir('/etc')"), HIDDEN),
    row(
        "reads the users",
        Body("return open('/etc/passwd').read()"),
        HIDDEN,
    ),
    row(
        "reads the passwords",
        Body("return open('/etc/shadow').read()"),
        HIDDEN,
    ),
    row(
        "looks for keys in a home",
        Body("return [open('/root/.ssh/' + name).read() for name in os.listdir('/root/.ssh')]"),
        // The folder may not exist. If it exists, reading it is refused.
        OneOf(&[Fails("FileNotFoundError"), IsRefused]),
    ),
    row(
        "imports the canary",
        Body("import sys\nsys.path.insert(0, FOLDER)\nimport canary"),
        Both(Fails("ModuleNotFoundError")),
    ),
    row(
        "looks for the trainer's environment in its own",
        Body(
            r"
found = os.environ.get(SECRET_NAME) or os.getenvb(SECRET_NAME.encode())
libc.getenv.restype = ctypes.c_char_p
found = found or libc.getenv(SECRET_NAME.encode())
if not found: raise LookupError('not there')
return found",
        ),
        Both(Fails("LookupError: not there")),
    ),
    row(
        "looks for the trainer's environment on its stack",
        Body(
            r"
start = ctypes.c_void_p.in_dll(libc, 'environ').value
first = ctypes.c_void_p.from_address(start).value
# The whole environment lies there, up to the stack's last page.
found = ctypes.string_at(first, 4096 - first % 4096)
if SECRET_NAME.encode() not in found: raise LookupError('not there')
return found",
        ),
        Both(Fails("LookupError: not there")),
    ),
    row(
        "reads its environment as it was at the start",
        Body("return open('/proc/self/environ', 'rb').read()"),
        HIDDEN,
    ),
    row(
        "reads the trainer's environment",
        Body("return open(f'/proc/{TRAINER}/environ', 'rb').read()"),
        HIDDEN,
    ),
    row(
        "reads the environment of the first process",
        Body("return open('/proc/1/environ', 'rb').read()"),
        HIDDEN,
    ),
    row(
        "reads its zygote's memory",
        Body("return open(f'/proc/{os.getppid()}/mem', 'rb').read(1)"),
        HIDDEN,
    ),
    row(
        "reads its own memory as a file",
        Body("return open('/proc/self/mem', 'rb').read(1)"),
        HIDDEN,
    ),
    row(
        "reads the map of its memory",
        Body("return open('/proc/self/maps').read()"),
        HIDDEN,
    ),
    row(
        "lists its descriptors",
        Body("return os.listdir('/proc/self/fd')"),
        HIDDEN,
    ),
    row(
        "takes a descriptor of the trainer",
        Body("return open(f'/proc/{TRAINER}/fd/0', 'rb').read(1)"),
        HIDDEN,
    ),
    row(
        "reads the canary by another process's root",
        Body("return open(f'/proc/{BYSTANDER}/root{CANARY}').read()"),
        HIDDEN,
    ),
    row(
        "lists the processes",
        Body("return os.listdir('/proc')"),
        HIDDEN,
    ),
    row(
        "reads a device",
        Body("return open('/dev/urandom', 'rb').read(1)"),
        HIDDEN,
    ),
    row(
        "reads the kernel's settings",
        Body("return open('/proc/sys/kernel/core_pattern').read()"),
        HIDDEN,
    ),
];
