//! Wrong solutions that fake success. A check by exit code alone lets most of them through.

use polyphony_sandbox::{Tests, Verdict};

use crate::pools::{TIERS, judge};

/// The answer is secret: it is worked out in the judge, and no program here knows it.
fn tests() -> Tests {
    Tests {
        setup: "import hashlib\ndef secret(x):\n    return hashlib.sha256(b'%d' % x).hexdigest()\n"
            .to_owned(),
        source: "
def check(candidate):
    expected = secret(7)
    assert candidate(7) == expected
    assert candidate(8) == secret(8), 'eight'
    assert not candidate(9) != secret(9)
"
        .to_owned(),
    }
}

const CHEATS: &[(&str, &str)] = &[
    (
        "leaves with success",
        "import sys\ndef f(x):\n    sys.exit(0)\n",
    ),
    ("leaves at once", "import os\ndef f(x):\n    os._exit(0)\n"),
    ("leaves while loading", "import os\nos._exit(0)\n"),
    (
        "is equal to everything",
        "
class Equal(str):
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __hash__(self): return 0
def f(x):
    return Equal()
",
    ),
    (
        "is no plain value and equal to everything",
        "
class Equal:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
def f(x):
    return Equal()
",
    ),
    (
        "patches builtins",
        "
import builtins
builtins.AssertionError = type('Quiet', (BaseException,), {})
builtins.__dict__['__debug__'] = False
for name in ('isinstance', 'repr', 'str', 'all', 'any'):
    setattr(builtins, name, lambda *args: True)
def f(x):
    return 0
",
    ),
    (
        "patches hashlib",
        "
import hashlib
class Digest:
    def hexdigest(self): return ''
hashlib.sha256 = lambda data: Digest()
def f(x):
    return ''
",
    ),
    (
        "prints what a harness would print",
        "
import os, sys
def f(x):
    for stream in (1, 2):
        os.write(stream, b'passed\\nOK\\n{\"verdict\": \"passed\"}\\n')
    print('all tests passed', flush=True)
    print('1 passed', file=sys.stderr, flush=True)
    return None
",
    ),
    (
        "forges frames to the host",
        "
import os, struct
def f(x):
    def text(*fields):
        return b''.join(struct.pack('<I', len(t)) + t for t in fields)
    def frame(kind, payload):
        return struct.pack('<cI', kind, len(payload)) + payload
    forged = b''.join(frame(b'Z', text(b'%d' % i, b'passed', b'')) for i in range(3))
    forged += frame(b'D', text(b'passed', b''))
    for descriptor in range(3, 64):
        try:
            os.write(descriptor, forged)
        except OSError:
            pass
    return ''
",
    ),
    (
        "forges a reply that is no value",
        "
import os, struct
def f(x):
    for descriptor in range(3, 64):
        try:
            os.write(descriptor, struct.pack('<cI', b'R', 3) + b'???')
        except OSError:
            pass
    return ''
",
    ),
    (
        "forges a reply that claims a huge size",
        "
import os, struct
def f(x):
    for descriptor in range(3, 64):
        try:
            os.write(descriptor, struct.pack('<cI', b'R', 0xffffffff))
        except OSError:
            pass
    return ''
",
    ),
    (
        "sends a reply that holds a huge count",
        "
import os, struct
def f(x):
    for descriptor in range(3, 64):
        try:
            os.write(descriptor, struct.pack('<cI', b'R', 5) + b'l\\xff\\xff\\xff\\xff')
        except OSError:
            pass
    return ''
",
    ),
    (
        "hunts through frames",
        "
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
    (
        "hunts through the garbage collector",
        "
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
    (
        "traces whoever calls it",
        "
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
    (
        "leaves through atexit",
        "
import atexit, os
atexit.register(lambda: os._exit(0))
def f(x):
    raise SystemExit(0)
",
    ),
    (
        "leaves through a signal handler",
        "
import os, signal
for number in (signal.SIGALRM, signal.SIGTERM, signal.SIGXCPU):
    signal.signal(number, lambda *args: os._exit(0))
def f(x):
    signal.setitimer(signal.ITIMER_REAL, 0.001)
    while True: pass
",
    ),
    (
        "raises what the tests would raise",
        "
def f(x):
    raise AssertionError
",
    ),
    (
        "ends the tests' own iteration",
        "
def f(x):
    raise StopIteration
",
    ),
    (
        "replaces the function while it runs",
        "
import sys
def f(x):
    sys.modules['__main__'].__dict__['run_child'] = lambda channel: None
    sys.modules['__main__'].__dict__['encode'] = lambda value: b'T'
    return ''
",
    ),
    (
        "reads its own memory for the answer",
        "
def f(x):
    with open('/proc/self/mem', 'rb') as memory:
        return memory.read(1)
",
    ),
    (
        "answers before it is asked",
        "
import os, struct
for descriptor in range(3, 64):
    try:
        os.write(descriptor, (struct.pack('<cI', b'R', 1) + b'T') * 8)
    except OSError:
        pass
def f(x):
    return ''
",
    ),
];

#[test]
fn no_cheat_passes_a_single_test() {
    for (name, source) in CHEATS {
        for tier in TIERS {
            let judgement = judge(tier, source, &tests());
            assert_ne!(judgement.verdict, Verdict::Passed, "{tier}: {name}");
            assert_eq!(judgement.passed(), 0, "{tier}: {name}: {judgement:?}");
            assert_eq!(judgement.asserts.len(), 3);
            for outcome in &judgement.asserts {
                let error = outcome.error.as_deref().unwrap_or_default();
                assert!(!error.is_empty(), "{tier}: {name}");
                assert!(error.chars().all(|char| !char.is_control()), "{error:?}");
            }
        }
    }
}

#[test]
fn who_knows_the_answer_passes() {
    let source = "
import hashlib
def f(x):
    return hashlib.sha256(str(x).encode()).hexdigest()
";
    for tier in TIERS {
        let judgement = judge(tier, source, &tests());
        assert_eq!(judgement.verdict, Verdict::Passed, "{judgement:?}");
    }
}
