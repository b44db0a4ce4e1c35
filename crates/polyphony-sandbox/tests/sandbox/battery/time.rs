//! Programs that use up all their time.

use super::{Deed::*, Expected::*, Fate::*, Hostile, row};

pub(super) const ROWS: &[Hostile] = &[
    row("loops", Body("while True: pass"), Both(TimesOut)),
    row(
        "loops while it is loaded",
        Program("while True: pass"),
        Both(TimesOut),
    ),
    row(
        "loops at the second call",
        SecondCall("while True: pass"),
        Both(TimesOut),
    ),
    row(
        "catches whatever would end its loop",
        Body(
            r"
while True:
    try:
        while True: pass
    except BaseException:
        pass",
        ),
        Both(TimesOut),
    ),
    row(
        "ignores every signal",
        Body(
            r"
import signal
for number in range(1, 65):
    try: signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError): pass
while True: pass",
        ),
        Both(TimesOut),
    ),
    row(
        "blocks every signal",
        Body(
            r"
import signal
signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
while True: pass",
        ),
        Both(TimesOut),
    ),
    row(
        "continues after its CPU time is used up",
        Body(
            r"
import signal
def go_on(*_):
    while True: pass
signal.signal(signal.SIGXCPU, go_on)
while True: pass",
        ),
        Both(TimesOut),
    ),
    row(
        "wakes itself again and again",
        Body(
            r"
import signal
signal.signal(signal.SIGALRM, lambda *_: None)
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
while True: signal.pause()",
        ),
        Both(TimesOut),
    ),
    row(
        "loops where no Python runs",
        Body("import itertools\nreturn sum(itertools.repeat(1))"),
        Both(TimesOut),
    ),
    row(
        "loops in several threads",
        Body(
            r"
import threading
def loop():
    while True: pass
for _ in range(8): threading.Thread(target=loop, daemon=True).start()
loop()",
        ),
        Both(TimesOut),
    ),
    row(
        "ends its first thread and continues in another",
        Body(
            r"
import threading, time
threading.Thread(target=time.sleep, args=(600,)).start()
call('exit', 0)",
        ),
        Both(TimesOut),
    ),
    row(
        "sleeps",
        Body("import time\ntime.sleep(600)"),
        Both(TimesOut),
    ),
    row(
        "sleeps at the second call",
        SecondCall("import time\ntime.sleep(600)"),
        Both(TimesOut),
    ),
    row(
        "waits for itself",
        Body("import threading\nlock = threading.Lock()\nwith lock: lock.acquire()"),
        Both(TimesOut),
    ),
    row(
        "stops itself",
        Body("import signal, time\nos.kill(os.getpid(), signal.SIGTSTP)\ntime.sleep(600)"),
        Both(TimesOut),
    ),
    row(
        "takes the next call from its socket and does not answer",
        Body(
            r"
for descriptor in range(3, 64):
    try:
        while True: os.read(descriptor, 1)
    except OSError:
        pass",
        ),
        Both(TimesOut),
    ),
    row(
        "matches a catastrophic pattern",
        Body("import re\nreturn bool(re.match(r'(a|aa)+$', 'a' * 64 + 'b'))"),
        Both(TimesOut),
    ),
    row(
        "matches nested repetitions at the second call",
        SecondCall("import re\nreturn bool(re.match(r'((x*)*)*y', 'x' * 64))"),
        Both(TimesOut),
    ),
    row(
        "works out a tower of powers",
        Body("return 9 ** 9 ** 9 % 10"),
        Both(TimesOut),
    ),
    row(
        "writes out a large number",
        Body(
            r"
import sys
getattr(sys, 'set_int_max_str_digits', int)(0)
return len(str(7 ** 5_000_000))",
        ),
        Both(TimesOut),
    ),
    row(
        "works out a large factorial",
        Body("import math\nreturn math.factorial(10 ** 7) % 10"),
        Both(TimesOut),
    ),
    row(
        "fills a set with colliding keys",
        Body("return len({n * ((1 << 61) - 1) for n in range(200_000)})"),
        Both(TimesOut),
    ),
    row(
        "cannot be described in finite time",
        Body(
            r"
class Endless(Exception):
    def __str__(self):
        while True: pass
raise Endless",
        ),
        Both(TimesOut),
    ),
    row(
        "prints forever",
        Body("while True: print('x' * 10_000)"),
        Both(TimesOut),
    ),
    row(
        "writes to the standard error forever",
        Body("while True: os.write(2, b'x' * 100_000)"),
        Both(TimesOut),
    ),
    row(
        "lets a thread outlive its answer",
        Body(
            r"
import threading
def loop():
    while True: pass
threading.Thread(target=loop, daemon=True).start()
return 1",
        ),
        Both(Passes),
    ),
];
