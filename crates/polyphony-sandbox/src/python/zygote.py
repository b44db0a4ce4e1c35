# A zygote: a warm interpreter that forks one confined child per program.
#
# It reads no payload. A request is one descriptor, the child's socket, from which the child reads.
# Solvers and judges use the same code; only `run_child` differs.

import ctypes
import gc
import random
import resource
import signal
import sys

import _socket

# Common imports of programs and tests, so that no child waits for them. No other modules are imported,
# because every page of the zygote's memory costs time when a child ends.
for _name in (
    "typing", "math", "collections", "itertools", "functools", "operator", "re", "string", "heapq",
    "bisect", "copy",
):
    __import__(_name)

_CONTROL = 3
_PR_SET_PDEATHSIG = 1
_PR_SET_SECCOMP = 22
_SECCOMP_MODE_FILTER = 2
# The placeholder for the process's own id in a filter from the host.
_OWN_PID = struct.pack("=I", 0x504F4C59)

_prctl = ctypes.CDLL(None, use_errno=True).prctl


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]


def _install(bpf):
    """Installs a seccomp filter for this process and all its forks, permanently."""
    buffer = ctypes.create_string_buffer(bpf, len(bpf))
    program = _Program(len(bpf) // 8, ctypes.cast(buffer, ctypes.c_void_p))
    if _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "seccomp")


def _serve():
    control = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0, _CONTROL)
    child_filter = control.recv(1 << 16)[1:]
    while True:
        zygote_filter = control.recv(1 << 16)[1:]
        if not zygote_filter:
            break
        _install(zygote_filter)
    # A garbage collection in a child must not visit these objects, since that would copy their pages.
    gc.collect()
    gc.freeze()
    control.send(b"R")
    zygote = os.getpid()
    while True:
        request, ancillary, _, _ = control.recvmsg(64, _socket.CMSG_SPACE(4))
        if not request:
            os._exit(0)
        (descriptor,) = struct.unpack("=i", ancillary[0][2])
        try:
            pid = os.fork()
        except OSError as error:
            os.close(descriptor)
            control.send(b"E%d" % error.errno)
            continue
        if pid == 0:
            # Detached from its object, so that nothing of the control socket is left in the child.
            os.close(control.detach())
            _be_child(descriptor, int(request), child_filter, zygote)
        os.close(descriptor)
        _report(control, pid)


def _report(control, pid):
    """Sends the child's pidfd to the host, and later how the child ended."""
    pidfd = os.pidfd_open(pid)
    rights = struct.pack("=i", pidfd)
    control.sendmsg([b"P"], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, rights)])
    os.close(pidfd)
    _, status = os.waitpid(pid, 0)
    control.send(b"S%d" % status)


def _be_child(descriptor, cpu_secs, child_filter, zygote):
    try:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        # The zygote may have died before the line above.
        if os.getppid() != zygote:
            os._exit(1)
        resource.setrlimit(resource.RLIMIT_CPU, (cpu_secs, cpu_secs + 1))
        if child_filter:
            own_pid = struct.pack("=I", os.getpid())
            _install(child_filter.replace(_OWN_PID, own_pid))
        # A program gets the same random numbers in every run, and so the same verdict.
        random.seed(0)
        os.write(descriptor, b"+")
        run_child(Channel(descriptor, descriptor))
    except MemoryError:
        os._exit(OUT_OF_MEMORY)
    finally:
        os._exit(0)


sys.path = [entry for entry in sys.path if entry]
warm_up()
_serve()
