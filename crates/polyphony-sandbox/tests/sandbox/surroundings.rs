//! What a program finds around it.

use std::{
    fs::{File, FileTimes},
    process::Command,
    time::UNIX_EPOCH,
};

use polyphony_sandbox::{Tier, Verdict};

use crate::pools::{TIERS, check_of, judge, patient_pool};

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
        let result = judge(tier, source, &check_of(&lines));
        assert_eq!(result.verdict, Verdict::Passed, "{result:?}");
    }
    let result = judge(
        Tier::Full,
        source,
        &check_of(&[
            "assert candidate('name') == 'sandbox'",
            "assert candidate('user') == {65534}",
            // The zygote counts as well.
            "assert 50 < candidate('many threads') < 64",
        ]),
    );
    assert_eq!(result.verdict, Verdict::Passed, "{result:?}");
}

/// A time of access is a bit that one program can leave for the next. In the Landlock tier nothing
/// keeps it from that: see "Times of access" in `docs/sandbox.md`.
#[test]
fn in_the_full_tier_reading_leaves_no_time_of_access() {
    let python = &patient_pool(Tier::Full).interpreter().path;
    let module = Command::new(python)
        .args(["-c", "import this; print(this.__file__)"])
        .output();
    let printed = String::from_utf8(module.unwrap().stdout).unwrap();
    let module = File::open(printed.lines().last().unwrap()).unwrap();
    // Long ago, so that the next access would be written down. Only the owner may say so; CI is root.
    if module
        .set_times(FileTimes::new().set_accessed(UNIX_EPOCH))
        .is_err()
    {
        return;
    }
    let source = "
import os
def f():
    module = os.path.join(os.path.dirname(os.__file__), 'this.py')
    return len(open(module).read()), os.stat(module).st_atime
";
    let tests = check_of(&["assert candidate()[0] > 0", "assert candidate()[1] == 0"]);
    let result = judge(Tier::Full, source, &tests);
    assert_eq!(result.verdict, Verdict::Passed, "{result:?}");
}
