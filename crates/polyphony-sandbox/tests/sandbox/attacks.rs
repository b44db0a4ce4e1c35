//! Programs that want something of the machine. What they get is looked at from outside as well.

use std::{
    fs,
    net::TcpListener,
    process::{Child, Command, Stdio},
};

use polyphony_sandbox::{Tier, Verdict};

use crate::pools::{TIERS, check_of, judge};

/// A file that must stay as it is, and a process that must stay alive.
struct Bystanders {
    canary: tempfile::NamedTempFile,
    process: Child,
    server: TcpListener,
}

const CANARY: &str = "nobody has been here";

impl Bystanders {
    fn new() -> Self {
        let canary = tempfile::NamedTempFile::new().unwrap();
        fs::write(canary.path(), CANARY).unwrap();
        Self {
            canary,
            process: Command::new("sleep")
                .arg("600")
                .stdin(Stdio::null())
                .spawn()
                .unwrap(),
            server: TcpListener::bind(("127.0.0.1", 0)).unwrap(),
        }
    }

    /// Puts what there is to attack into a program.
    fn told_to(&self, source: &str) -> String {
        let port = self.server.local_addr().unwrap().port();
        let prelude = format!(
            "CANARY, BYSTANDER, PORT = {:?}, {}, {port}\n",
            self.canary.path().to_str().unwrap(),
            self.process.id(),
        );
        prelude + PRELUDE + source
    }

    fn assert_unharmed(&mut self, attack: &str) {
        let text = fs::read_to_string(self.canary.path()).unwrap();
        assert_eq!(text, CANARY, "{attack}");
        assert!(self.process.try_wait().unwrap().is_none(), "{attack}");
    }
}

impl Drop for Bystanders {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

/// A way to make any system call, and to see that it was refused.
const PRELUDE: &str = "
import ctypes, os, platform
_libc = ctypes.CDLL(None, use_errno=True)
def done(result):
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
def call(number, *args):
    return done(_libc.syscall(ctypes.c_long(number), *[ctypes.c_long(arg) for arg in args]))
";

/// The verdicts that an attack may get in a tier.
type Accepted = fn(Tier) -> &'static [&'static str];

const VIOLATION: Accepted = |_| &["violation"];
/// Where Python makes another exception of the refusal.
const FAILED: Accepted = |_| &["failed"];
/// In the full tier most paths are not there at all; elsewhere they may not be read.
const NO_SUCH_PATH: Accepted = |tier| match tier {
    Tier::Full => &["failed", "violation"],
    _ => &["violation"],
};

/// An attack, and the body of `f`.
const ATTACKS: &[(&str, &str, Accepted)] = &[
    ("read a file", "return open(CANARY).read()", NO_SUCH_PATH),
    (
        "read passwords",
        "return open('/etc/passwd').read()",
        NO_SUCH_PATH,
    ),
    ("list the root", "return os.listdir('/')", VIOLATION),
    ("list /etc", "return os.listdir('/etc')", NO_SUCH_PATH),
    (
        "write a file",
        "return open(CANARY, 'w').write('x')",
        VIOLATION,
    ),
    (
        "append to a file",
        "return open(CANARY, 'a').write('x')",
        VIOLATION,
    ),
    ("remove a file", "return os.unlink(CANARY)", VIOLATION),
    (
        "rename a file",
        "return os.rename(CANARY, CANARY + '2')",
        VIOLATION,
    ),
    (
        "truncate a file",
        "return os.truncate(CANARY, 0)",
        VIOLATION,
    ),
    (
        "make a directory",
        "return os.mkdir('/tmp/made')",
        VIOLATION,
    ),
    (
        "make a link",
        "return os.symlink(CANARY, '/tmp/link')",
        VIOLATION,
    ),
    ("change a mode", "return os.chmod(CANARY, 0o777)", VIOLATION),
    (
        "make a file in memory",
        "return os.memfd_create('x')",
        VIOLATION,
    ),
    ("fork", "return os.fork()", VIOLATION),
    (
        "run a program",
        "return os.execv('/bin/true', ['true'])",
        VIOLATION,
    ),
    (
        "run the interpreter",
        "import sys\n    return os.execv(sys.executable, ['python'])",
        VIOLATION,
    ),
    (
        "run a shell",
        "import subprocess\n    return subprocess.run('true', shell=True)",
        VIOLATION,
    ),
    (
        "signal a bystander",
        "return os.kill(BYSTANDER, 9)",
        VIOLATION,
    ),
    ("signal everyone", "return os.kill(-1, 9)", VIOLATION),
    (
        "signal the parent",
        "return os.kill(os.getppid(), 9)",
        VIOLATION,
    ),
    ("kill itself", "return os.kill(os.getpid(), 9)", VIOLATION),
    (
        "set an owner of signals",
        "import fcntl\n    return fcntl.fcntl(0, fcntl.F_SETOWN, BYSTANDER)",
        VIOLATION,
    ),
    (
        "open a socket",
        "import socket\n    return socket.create_connection(('127.0.0.1', PORT)).fileno()",
        VIOLATION,
    ),
    (
        "open a local socket",
        "import socket\n    return socket.socket(socket.AF_UNIX).fileno()",
        VIOLATION,
    ),
    (
        "raise a limit",
        "import resource\n    return resource.setrlimit(resource.RLIMIT_AS, (-1, -1))",
        FAILED,
    ),
    (
        "raise the bystander's limit",
        "import resource\n    return resource.prlimit(BYSTANDER, resource.RLIMIT_CPU, (1, 1))",
        VIOLATION,
    ),
    ("become root", "return os.setuid(0)", VIOLATION),
    (
        "become no one's child",
        "return done(_libc.prctl(1, 0, 0, 0, 0))",
        VIOLATION,
    ),
];

/// Calls by number that end the process, on x86-64.
#[cfg(target_arch = "x86_64")]
const KILLED: &[(&str, &str)] = &[
    ("ptrace", "call(101, 16, BYSTANDER, 0, 0)"),
    ("process_vm_readv", "call(310, BYSTANDER, 0, 0, 0, 0, 0)"),
    ("mount", "call(165, 0, 0, 0, 0, 0)"),
    ("unshare", "call(272, 0x10000000)"),
    ("bpf", "call(321, 0, 0, 0)"),
    ("io_uring", "call(425, 1, 0)"),
    ("keyctl", "call(250, 0, 0, 0, 0, 0)"),
    ("perf_event_open", "call(298, 0, 0, 0, 0, 0)"),
    ("userfaultfd", "call(323, 0)"),
    ("the x32 entry point", "call(0x40000000 + 39)"),
];

fn verdict_of(tier: Tier, source: &str) -> (String, String) {
    let tests = check_of(&["assert candidate() is not candidate"]);
    let judgement = judge(tier, source, &tests);
    let verdict = serde_json::to_string(&judgement.verdict).unwrap();
    let error = judgement.asserts[0].error.clone().unwrap_or_default();
    (verdict.trim_matches('"').to_owned(), error)
}

#[test]
fn attacks_are_refused_and_leave_no_trace() {
    let mut bystanders = Bystanders::new();
    for (name, body, expected) in ATTACKS {
        let source = bystanders.told_to(&format!("def f():\n    {body}\n"));
        for tier in TIERS {
            let (verdict, error) = verdict_of(tier, &source);
            let expected = expected(tier);
            assert!(
                expected.contains(&&*verdict),
                "{tier}: {name}: {verdict} {error}"
            );
            bystanders.assert_unharmed(name);
        }
    }
}

#[test]
#[cfg(target_arch = "x86_64")]
fn calls_without_an_honest_use_end_the_program() {
    let mut bystanders = Bystanders::new();
    for (name, body) in KILLED {
        let source = bystanders.told_to(&format!("def f():\n    return {body}\n"));
        for tier in TIERS {
            let (verdict, error) = verdict_of(tier, &source);
            assert_eq!(verdict, "violation", "{tier}: {name}: {error}");
            assert_eq!(
                error, "killed for a forbidden system call",
                "{tier}: {name}"
            );
            bystanders.assert_unharmed(name);
        }
    }
}

#[test]
fn a_program_sees_next_to_nothing() {
    // Every descriptor that is open, what it is, and what is in the environment.
    let source = "
import os, stat
def f(what):
    if what == 'descriptors':
        found = []
        for descriptor in range(4096):
            try:
                kind = os.fstat(descriptor).st_mode
            except OSError:
                continue
            found.append('null' if stat.S_ISCHR(kind) else 'socket' if stat.S_ISSOCK(kind) else 'x')
        return found
    if what == 'environment':
        return sorted(os.environ)
    if what == 'threads':
        import threading
        made = []
        thread = threading.Thread(target=lambda: made.append(threading.get_native_id()))
        thread.start()
        thread.join()
        return len(made)
    if what == 'packages':
        import sys
        return [path for path in sys.path if 'packages' in path]
    if what == 'printing':
        import sys
        for _ in range(100000):
            print('x' * 100)
            print('y' * 100, file=sys.stderr)
        return sys.stdin.read()
    if what == 'name':
        return os.uname().nodename
    if what == 'many threads':
        import threading
        threading.stack_size(32768)
        gate = threading.Event()
        try:
            for count in range(1000):
                threading.Thread(target=gate.wait).start()
        except RuntimeError:
            pass
        gate.set()
        return count
    if what == 'user':
        return {*os.getresuid(), *os.getresgid(), *os.getgroups()}
";
    let lines = [
        "assert candidate('descriptors') == ['null', 'null', 'null', 'socket']",
        "assert set(candidate('environment')) <= {'LC_CTYPE', 'LD_BIND_NOW', 'LD_LIBRARY_PATH', \
         'MALLOC_ARENA_MAX', 'PYTHONHASHSEED', 'PYTHONSAFEPATH'}, candidate('environment')",
        "assert candidate('threads') == 1",
        "assert candidate('packages') == []",
        "assert candidate('printing') == ''",
    ];
    for tier in TIERS {
        let judgement = judge(tier, source, &check_of(&lines));
        assert_eq!(judgement.verdict, Verdict::Passed, "{judgement:?}");
    }
    let judgement = judge(
        Tier::Full,
        source,
        &check_of(&[
            "assert candidate('name') == 'sandbox'",
            "assert candidate('user') == {65534}",
            // The zygote counts as well.
            "assert 50 < candidate('many threads') < 64",
        ]),
    );
    assert_eq!(judgement.verdict, Verdict::Passed, "{judgement:?}");
}

#[test]
fn resources_are_limited() {
    let rows = [
        ("a list", "x = [0] * (1 << 27)", "out_of_memory"),
        (
            "many lists",
            "x = []\n    while True: x.append([0] * 100000)",
            "out_of_memory",
        ),
        (
            "a map",
            "import mmap\n    x = mmap.mmap(-1, 1 << 29)",
            "failed",
        ),
        (
            "deep data",
            "x = []\n    for _ in range(10000): x = [x]\n    return x",
            "failed",
        ),
        ("a huge reply", "return 'x' * (5 << 20)", "failed"),
        (
            "deep recursion",
            "import sys\n    sys.setrecursionlimit(10 ** 9)\n    \
             g = lambda n: sorted([n], key=g)\n    return g(1)",
            "failed",
        ),
        ("an abort", "os.abort()", "failed"),
        ("a bad pointer", "return ctypes.string_at(0)", "failed"),
        (
            "descriptors",
            "x = [os.dup(0) for _ in range(100)]",
            "failed",
        ),
        (
            "threads",
            "import threading, time\n    threading.stack_size(32768)\n    \
             for _ in range(100000): threading.Thread(target=time.sleep, args=(99,), daemon=True).start()",
            "failed",
        ),
        (
            "an ignored limit",
            "import signal\n    signal.signal(signal.SIGXCPU, signal.SIG_IGN)\n    while True: pass",
            "timeout",
        ),
        (
            "stopping itself",
            "os.kill(os.getpid(), 20)\n    import time\n    time.sleep(60)",
            "timeout",
        ),
    ];
    for (name, body, expected) in rows {
        let source = format!("{PRELUDE}def f():\n    {body}\n    return 1\n");
        for tier in TIERS {
            let (verdict, error) = verdict_of(tier, &source);
            // In the Landlock tier nothing but memory and time limits the number of threads.
            let threads = name == "threads" && tier == Tier::Landlock && verdict != "passed";
            assert!(
                verdict == expected || threads,
                "{tier}: {name}: {verdict} {error}"
            );
        }
    }
}
