//! Wrong solutions that try to pass. Most of them would, if only the exit code counted, or if the tests
//! ran in the program's interpreter.

use super::{Deed::*, Expected::*, Fate::*, Hostile, row};

pub(super) const ROWS: &[Hostile] = &[
    row(
        "leaves with success",
        Cheat(
            r"
import sys
def f(x):
    sys.exit(0)
",
        ),
        Both(Fails("SystemExit: 0")),
    ),
    row(
        "is equal to everything",
        Cheat(
            r"
class Equal(str):
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __hash__(self): return 0
def f(x):
    return Equal()
",
        ),
        Both(Fails("AssertionError")),
    ),
    row(
        "is not a plain value and equal to everything",
        Cheat(
            r"
class Equal:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
def f(x):
    return Equal()
",
        ),
        Both(Fails("TypeError: Equal is not plain data")),
    ),
    row(
        "patches builtins",
        Cheat(
            r"
import builtins
builtins.AssertionError = type('Quiet', (BaseException,), {})
builtins.__dict__['__debug__'] = False
for name in ('isinstance', 'repr', 'str', 'all', 'any'):
    setattr(builtins, name, lambda *args: True)
def f(x):
    return 0
",
        ),
        Both(Fails("AssertionError")),
    ),
    row(
        "patches hashlib",
        Cheat(
            r"
import hashlib
class Digest:
    def hexdigest(self): return ''
hashlib.sha256 = lambda data: Digest()
def f(x):
    return ''
",
        ),
        Both(Fails("AssertionError")),
    ),
    row(
        "prints what a harness would print",
        Cheat(
            r#"
import os, sys
def f(x):
    for stream in (1, 2):
        os.write(stream, b'passed\nOK\n{"verdict": "passed"}\n')
    print('all tests passed', flush=True)
    print('1 passed', file=sys.stderr, flush=True)
    return None
"#,
        ),
        Both(Fails("AssertionError")),
    ),
    row(
        "hunts through frames",
        Cheat(
            r"
import sys
def f(x):
    frame = sys._getframe()
    while frame is not None:
        for names in (frame.f_locals, frame.f_globals):
            for name in ('expected', 'secret'):
                value = names.get(name)
                if value is not None:
                    return value(x) if callable(value) else value
        frame = frame.f_back
    return ''
",
        ),
        Both(Fails("AssertionError")),
    ),
    row(
        "hunts through the garbage collector",
        Cheat(
            r"
import gc
def f(x):
    gc.unfreeze()
    for found in gc.get_objects():
        if isinstance(found, dict) and 'secret' in found and callable(found['secret']):
            return found['secret'](x)
        if getattr(found, '__name__', '') == 'secret':
            return found(x)
    return ''
",
        ),
        Both(Fails("AssertionError")),
    ),
    row(
        "traces its caller",
        Cheat(
            r"
import sys, threading
def trace(frame, event, arg):
    for name in list(frame.f_locals):
        if name == 'expected':
            frame.f_locals[name] = ''
    return trace
sys.settrace(trace)
sys.setprofile(trace)
threading.settrace(trace)
def f(x):
    return ''
",
        ),
        Both(Fails("AssertionError")),
    ),
    row(
        "leaves through atexit",
        Cheat(
            r"
import atexit, os
atexit.register(lambda: os._exit(0))
def f(x):
    raise SystemExit(0)
",
        ),
        Both(Fails("SystemExit: 0")),
    ),
    row(
        "leaves through a signal handler",
        Cheat(
            r"
import os, signal
for number in (signal.SIGALRM, signal.SIGTERM, signal.SIGXCPU):
    signal.signal(number, lambda *args: os._exit(0))
def f(x):
    signal.setitimer(signal.ITIMER_REAL, 0.001)
    while True: pass
",
        ),
        Both(Fails("with exit code 0")),
    ),
    row(
        "raises what the tests would raise",
        Cheat(
            r"
def f(x):
    raise AssertionError
",
        ),
        Both(Fails("AssertionError")),
    ),
    row(
        "ends the tests' own iteration",
        Cheat(
            r"
def f(x):
    raise StopIteration
",
        ),
        Both(Fails("StopIteration")),
    ),
    row(
        "replaces the function while it runs",
        Cheat(
            r"
import sys
def f(x):
    sys.modules['__main__'].__dict__['run_child'] = lambda channel: None
    sys.modules['__main__'].__dict__['encode'] = lambda value: b'T'
    return ''
",
        ),
        Both(Fails("AssertionError")),
    ),
    row(
        "leaves when it is cleared away",
        Cheat(
            r"
import os
class Leaving:
    def __del__(self): os._exit(0)
def f(x):
    Leaving()
",
        ),
        Both(Fails("with exit code 0")),
    ),
    row(
        "is a number that is equal to everything",
        Cheat(
            r"
class Equal(int):
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    __hash__ = int.__hash__
def f(x):
    return Equal()
",
        ),
        Both(Fails("AssertionError")),
    ),
    row(
        "makes two numbers the same in memory",
        Cheat(
            r"
import ctypes
def f(x):
    # The digits of a small integer, which is one object for the whole interpreter.
    ctypes.c_uint32.from_address(id(8) + 24).value = 7
    return x - 7
",
        ),
        Both(Fails("AssertionError")),
    ),
    row(
        "patches what its answers are written with",
        Cheat(
            r"
import os
write = os.write
os.write = lambda descriptor, data: write(descriptor, bytes(data[:5]) + b'T' * (len(data) - 5))
def f(x):
    return None
",
        ),
        Both(Fails("AssertionError")),
    ),
    row(
        "sends a frame through its caller",
        Cheat(
            r"
import sys
def f(x):
    frame = sys._getframe()
    while 'channel' not in frame.f_locals: frame = frame.f_back
    frame.f_locals['channel'].send(b'D', b'\x06\0\0\0passed\0\0\0\0')
",
        ),
        Both(Fails("a malformed reply of the kind `D`")),
    ),
    row(
        "hunts for a socket of its zygote",
        Cheat(
            r"
import gc, _socket
gc.unfreeze()
def f(x):
    for found in gc.get_objects() + list(gc.get_referrers(_socket.socket)):
        if isinstance(found, _socket.socket): found.send(b'R')
    names = __import__('sys')._getframe().f_back.f_back.f_back.f_locals
    return names['control'].send(b'R')
",
        ),
        Both(IsRefused),
    ),
    row(
        "answers with what it was asked",
        Cheat(
            r"
def f(x, *args, **kwargs):
    return [x, args, kwargs]
",
        ),
        Both(Fails("AssertionError")),
    ),
    row(
        "replaces its own tests' module",
        Cheat(
            r"
import sys, types
tests = types.ModuleType('tests')
tests.check = lambda candidate: None
sys.modules['tests'] = sys.modules['__main__'] = tests
def check(candidate): pass
def f(x):
    return ''
f.__globals__['secret'] = lambda x: ''
",
        ),
        Both(Fails("AssertionError")),
    ),
];
