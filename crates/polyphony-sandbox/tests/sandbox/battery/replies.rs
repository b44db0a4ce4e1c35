//! Programs that send frames of their own to the host and the judge. A frame has a kind, a length and a
//! payload.

use polyphony_sandbox::Tests;

use super::{Deed::*, Expected::*, Fate::*, Hostile, row};
use crate::pools::check_of;

/// Tests that hold several answers at the same time.
fn collected() -> Tests {
    check_of(&["assert [candidate(n) for n in range(9)] == []"])
}

/// Tests with many asserts, so that their numbers take some space.
fn many() -> Tests {
    let lines: Vec<String> = (0..120)
        .map(|n| format!("assert candidate({n}) == {n}"))
        .collect();
    check_of(&lines.iter().map(String::as_str).collect::<Vec<_>>())
}

pub(super) const ROWS: &[Hostile] = &[
    row(
        "sends frames of a judge to the host",
        Cheat(
            r"
def f(x):
    verdicts = [frame(b'Z', texts(b'%d' % index, b'passed', b'')) for index in range(3)]
    send(b''.join(verdicts) + frame(b'D', texts(b'passed', b'')))
",
        ),
        Both(Fails("a malformed reply of the kind `Z`")),
    ),
    row(
        "answers with something that is not a value",
        Cheat(r"def f(x): send(frame(b'R', b'???'))"),
        Both(Fails("the program's reply is not a value: ")),
    ),
    row(
        "answers with nothing",
        Cheat(r"def f(x): send(frame(b'R', b''))"),
        Both(Fails("the program's reply is not a value: ")),
    ),
    row(
        "answers with two values",
        Cheat(r"def f(x): send(frame(b'R', b'TT'))"),
        Both(Fails(
            "the program's reply is not a value: bytes are left over",
        )),
    ),
    row(
        "answers with a list of which only the length is there",
        Cheat(r"def f(x): send(frame(b'R', b'l\xff\xff\xff\xff'))"),
        Both(Fails("a length is larger than the remaining bytes")),
    ),
    row(
        "answers with a list in a list in a list",
        Cheat(r"def f(x): send(frame(b'R', b'l\1\0\0\0' * 100_000 + b'N'))"),
        Both(Fails(
            "the program's reply is not a value: nested more than 100 deep",
        )),
    ),
    row(
        "answers with a set of lists",
        Cheat(r"def f(x): send(frame(b'R', b'S\1\0\0\0l\0\0\0\0'))"),
        Both(Fails("the program's reply is not a value: unhashable type")),
    ),
    row(
        "answers with bytes that are not text",
        Cheat(r"def f(x): send(frame(b'R', b's\2\0\0\0\xff\xfe'))"),
        Both(Fails("the program's reply is not a value: ")),
    ),
    row(
        "answers with a number of four megabytes",
        Cheat(
            r"
def f(x): send(frame(b'R', b'i' + struct.pack('<I', 4_000_000) + b'\x7f' * 4_000_000))
",
        ),
        Both(Fails("AssertionError")),
    ),
    row(
        "claims to answer at the greatest length",
        Cheat(r"def f(x): send(frame(b'R', b'', 0xffffffff))"),
        Both(Fails(
            "a malformed reply: a frame of 4294967295 bytes; at most 4194304 are allowed",
        )),
    ),
    row(
        "answers one byte too many",
        Cheat(r"def f(x): send(frame(b'R', b'', (4 << 20) + 1))"),
        Both(Fails(
            "a malformed reply: a frame of 4194305 bytes; at most 4194304 are allowed",
        )),
    ),
    row(
        "answers with an unknown kind of frame",
        Cheat(r"def f(x): send(frame(b'\0', b'T'))"),
        Both(Fails("a malformed reply of the kind")),
    ),
    row(
        "reports again that it is loaded",
        Cheat(r"def f(x): send(frame(b'O', b''))"),
        Both(Fails("a malformed reply of the kind `O`")),
    ),
    row(
        "reports that it is loaded before it is",
        Program(
            r"
send(frame(b'O', b''))
while True: pass
",
        ),
        Both(TimesOut),
    ),
    row(
        "reports a syntax error while it is loaded",
        Program(
            r"
send(frame(b'E', texts(b'1', b'1', b'\x1b[2J' * 99)))
while True: pass
",
        ),
        Both(Fails(r"SyntaxError: \u{1b}[2J")),
    ),
    row(
        "answers before it is asked",
        Cheat(
            r"
send(frame(b'R', b'T') * 8)
def f(x): return ''
",
        ),
        Both(Fails("a malformed reply of the kind `R`")),
    ),
    row(
        "gives several answers at once",
        Cheat(
            r"
def f(x): send(frame(b'R', b'T') + frame(b'R', b'N') + frame(b'R', b's\0\0\0\0'))
",
        ),
        Both(Fails("AssertionError")),
    ),
    row(
        "never stops answering",
        Cheat(
            r"
def f(x):
    while True: send(frame(b'R', b'T') * 1000)
",
        ),
        Both(Fails("AssertionError")),
    ),
    row(
        "answers from a thread when nobody asks",
        Cheat(
            r"
import threading, time
def answer():
    while True:
        send(frame(b'R', b'T'))
        time.sleep(0.001)
def f(x):
    threading.Thread(target=answer, daemon=True).start()
    time.sleep(0.05)
    return ''
",
        ),
        Both(Fails("AssertionError")),
    ),
    row(
        "gives half an answer and waits",
        Body(
            r"
import time
send(frame(b'R', b'T', 100))
time.sleep(600)
",
        ),
        Both(TimesOut),
    ),
    row(
        "gives an answer byte by byte and never ends",
        Body(
            r"
import time
send(frame(b'R', b'T', 100_000))
while True: time.sleep(0.01) or send(b'T')
",
        ),
        Both(TimesOut),
    ),
    row(
        "gives half an answer and leaves",
        Cheat(
            r"
def f(x):
    send(frame(b'R', b'T', 100))
    os._exit(0)
",
        ),
        Both(Fails("with exit code 0")),
    ),
    row(
        "gives half of a frame's head and leaves",
        Cheat(
            r"
def f(x):
    send(b'R' + bytes(2))
    os._exit(0)
",
        ),
        Both(Fails("with exit code 0")),
    ),
    row(
        "answers and leaves",
        Cheat(
            r"
def f(x):
    send(frame(b'R', b'T'))
    os._exit(0)
",
        ),
        Both(Fails("AssertionError")),
    ),
    row(
        "answers at the second call after it has left",
        SecondCall(
            r"
send(frame(b'R', b'i\1\0\0\0\3'))
os._exit(0)
",
        ),
        Both(Fails("AssertionError")),
    ),
    row(
        "fails with a verdict",
        Cheat(r"def f(x): send(frame(b'X', texts(b'passed', b'', b'', b'')))"),
        Both(Fails("a malformed description of an exception")),
    ),
    row(
        "fails with half a description",
        Cheat(
            r"
def f(x): send(frame(b'X', texts(b'plain', b'', b'Exception', b'x')[:-2]))
",
        ),
        Both(Fails("a malformed description of an exception")),
    ),
    row(
        "fails with a description that is not text",
        Cheat(
            r"
def f(x): send(frame(b'X', texts(b'plain', b'\xff', b'Exception', b'')))
",
        ),
        Both(Fails("a malformed description of an exception")),
    ),
    row(
        "fails with what interrupts the tests",
        Cheat(
            r"
def f(x): send(frame(b'X', texts(b'plain', b'Interrupt', b'KeyboardInterrupt', b'')))
",
        ),
        Both(Fails("Interrupt")),
    ),
    row(
        "fails with what leaves the judge",
        Cheat(
            r"
def f(x): send(frame(b'X', texts(b'plain', b'Leave', b'SystemExit', b'0')))
",
        ),
        Both(Fails("Leave: 0")),
    ),
    row(
        "fails with something that is not an exception",
        Cheat(r"def f(x): send(frame(b'X', texts(b'plain', b'Quit', b'quit', b'0')))"),
        Both(Fails("Quit: 0")),
    ),
    row(
        "fails with an error of five fields",
        Cheat(
            r"
def f(x): send(frame(b'X', texts(b'plain', b'', b'UnicodeDecodeError', b'x', b'')))
",
        ),
        Both(Fails("a malformed description of an exception")),
    ),
    row(
        "fails with lines that look like a result",
        Cheat(
            r"
def f(x): send(frame(b'X', texts(b'plain', b'', b'ValueError', b'\npassed\n\x1b[1A')))
",
        ),
        Both(Fails(r": \npassed\n")),
    ),
    row(
        "fails with a description that is too long to be repeated",
        Tested(
            many,
            r"
def f(x):
    if x < 110: return x
    room = (4 << 20) - len(texts(b'plain', b'E', b'', b''))
    send(frame(b'X', texts(b'plain', b'E', b'', b'x' * room)))
",
        ),
        Both(Fails("a malformed reply of the kind `X`")),
    ),
    row(
        "answers with keys that collide in the judge",
        Body(
            r"
def number(n): return b'i\x0b\0\0\0' + (n * ((1 << 61) - 1)).to_bytes(11, 'little')
count = 200_000
send(frame(b'R', b'S' + struct.pack('<I', count) + b''.join(map(number, range(count)))))
",
        ),
        Both(TimesOut),
    ),
    row(
        "answers with more than the judge has memory for",
        Tested(
            collected,
            r"
def f(x): send(frame(b'R', b'l' + struct.pack('<I', 800_000) + b'S\0\0\0\0' * 800_000))
",
        ),
        // Without memory, CPython sometimes loses an exception.
        OneOf(&[RunsOutOfMemory, Fails("SystemError")]),
    ),
    row(
        "closes all its descriptors",
        Body(
            r"
os.closerange(0, 1 << 16)
return 1
",
        ),
        // Some C libraries abort a process in which closing all descriptors fails.
        OneOf(&[Fails("with exit code 0"), Fails("SIGABRT")]),
    ),
    row(
        "closes all its descriptors at the second call",
        SecondCall(
            r"
os.closerange(0, 63)
return 2
",
        ),
        Both(Fails("with exit code 0")),
    ),
    row(
        "closes all its descriptors and continues",
        Body(
            r"
os.closerange(0, 63)
while True: pass
",
        ),
        Both(Fails("the program closed its connection")),
    ),
    row(
        "closes all its descriptors while it is loaded",
        Program(
            r"
os.closerange(0, 63)
def f(): return 1
",
        ),
        Both(Fails("with exit code 0")),
    ),
    row(
        "answers into nothing",
        Body(
            r"
for descriptor in range(3, 64): os.dup2(0, descriptor)
return 1
",
        ),
        Both(Fails("with exit code 0")),
    ),
];
