//! Programs that try to communicate.

use super::{Deed::*, Expected::*, Fate::*, Hostile, row};

pub(super) const ROWS: &[Hostile] = &[
    row(
        "connects by TCP",
        Body("import socket\nreturn socket.create_connection((HOST, TCP)).fileno()"),
        Both(IsRefused),
    ),
    row(
        "connects by TCP at the second call",
        SecondCall("import socket\nreturn socket.create_connection((HOST, TCP)).fileno()"),
        Both(IsRefused),
    ),
    row(
        "connects while it is loaded",
        Program(
            "import socket\nsocket.create_connection((HOST, TCP)).send(b'x')\ndef f(): return 1",
        ),
        Both(IsRefused),
    ),
    row(
        "sends by UDP",
        Body(
            "import socket\nreturn socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', (HOST, UDP))",
        ),
        Both(IsRefused),
    ),
    row(
        "listens",
        Body("import socket\nreturn socket.create_server(('', 0)).getsockname()"),
        Both(IsRefused),
    ),
    row(
        "asks for a name",
        Body("import socket\nreturn str(socket.getaddrinfo('example.org', 80))"),
        // The C library's error: it could not open a socket.
        Both(Fails("gaierror")),
    ),
    row(
        "asks a name server itself",
        Body("import socket\nreturn socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).fileno()"),
        Both(IsRefused),
    ),
    row(
        "fetches a page",
        Body(
            "import urllib.request\nreturn urllib.request.urlopen(f'http://{HOST}:{TCP}', timeout=1).read()",
        ),
        Both(Fails("[Errno 1] Operation not permitted")),
    ),
    row(
        "sends raw packets",
        Body("import socket\nreturn socket.socket(socket.AF_INET, socket.SOCK_RAW, 1).fileno()"),
        Both(IsRefused),
    ),
    row(
        "listens to all packets",
        Body(
            "import socket\nreturn socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0x300).fileno()",
        ),
        Both(IsRefused),
    ),
    row(
        "asks the kernel for its network",
        Body("import socket\nreturn socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0).fileno()"),
        Both(IsRefused),
    ),
    row(
        "lets the kernel encrypt",
        Body("import socket\nreturn socket.socket(38, socket.SOCK_SEQPACKET).fileno()"),
        Both(IsRefused),
    ),
    row(
        "connects to a socket with a path",
        Body(
            "import socket\nreturn socket.socket(socket.AF_UNIX).connect(FOLDER + '/socket') or 1",
        ),
        Both(IsRefused),
    ),
    row(
        "connects to an abstract socket",
        Body(r"import socket; return socket.socket(socket.AF_UNIX).connect('\0' + MARK) or 1"),
        Both(IsRefused),
    ),
    row(
        "takes an abstract name",
        Body(r"import socket; return socket.socket(socket.AF_UNIX).bind('\0' + MARK + 'x') or 1"),
        Both(IsRefused),
    ),
    row(
        "makes a pair of sockets",
        Body("import socket\nreturn socket.socketpair()[0].fileno()"),
        Both(IsRefused),
    ),
    row(
        "connects to the host of a virtual machine",
        Body("import socket\nreturn socket.socket(socket.AF_VSOCK).fileno()"),
        Both(IsRefused),
    ),
    row(
        "sends a descriptor over its own socket",
        Body("return max(call('sendmsg', fd, (ctypes.c_long * 7)(), 0) for fd in range(3, 64))"),
        Both(IsRefused),
    ),
    row(
        "makes a server of its own socket",
        Body(
            "import socket\nreturn [socket.socket(fileno=fd).getpeername() for fd in range(3, 64)]",
        ),
        Both(IsRefused),
    ),
    row(
        "waits as servers do",
        Body("import asyncio\nreturn asyncio.run(asyncio.sleep(0))"),
        Both(IsRefused),
    ),
];
