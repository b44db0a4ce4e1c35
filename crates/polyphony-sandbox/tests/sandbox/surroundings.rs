//! What a program can see of its surroundings.

use std::{
    fs::{File, FileTimes},
    process::Command,
    time::UNIX_EPOCH,
};

use polyphony_sandbox::{Tier, Verdict};

use crate::pools::{TIERS, check_of, patient_pool, run_patiently};

#[test]
fn a_program_sees_next_to_nothing() {
    // All open descriptors and their kinds, the environment, and more.
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
        let result = run_patiently(tier, source, &check_of(&lines));
        assert_eq!(result.verdict, Verdict::Passed, "{result:?}");
    }
    let result = run_patiently(
        Tier::Full,
        source,
        &check_of(&[
            "assert candidate('name') == 'sandbox'",
            "assert candidate('user') == {65534}",
            // The zygote counts as a thread as well.
            "assert 50 < candidate('many threads') < 64",
        ]),
    );
    assert_eq!(result.verdict, Verdict::Passed, "{result:?}");
}

/// An access time is information that one program can leave for the next. The Landlock tier does not
/// prevent this: see "Times of access" in `docs/sandbox.md`.
#[test]
fn in_the_full_tier_reading_leaves_no_access_time() {
    let python = &patient_pool(Tier::Full).interpreter().path;
    let module = Command::new(python)
        .args(["-c", "import this; print(this.__file__)"])
        .output();
    let printed = String::from_utf8(module.unwrap().stdout).unwrap();
    let module = File::open(printed.lines().last().unwrap()).unwrap();
    // An old access time, so that the next access would be recorded. Only the owner may set it; CI is root.
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
    let result = run_patiently(Tier::Full, source, &tests);
    assert_eq!(result.verdict, Verdict::Passed, "{result:?}");
}
