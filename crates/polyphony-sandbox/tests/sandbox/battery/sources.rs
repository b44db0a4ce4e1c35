//! Programs whose source is the attack: on the compiler, on code that reads it, on people who read the
//! reasons.

use super::{Deed::*, Expected::*, Fate::*, Hostile, row};

const HONEST: &str = "\ndef f():\n    return 1\n";

pub(super) const ROWS: &[Hostile] = &[
    row(
        "is nested in brackets",
        Source(|| format!("x = {}{}{HONEST}", "(".repeat(5000), ")".repeat(5000))),
        Both(Fails("SyntaxError: too many nested parentheses")),
    ),
    row(
        "is nested in signs",
        Source(|| format!("x = {}1{HONEST}", "-".repeat(200_000))),
        // Python's version decides which of its limits the parser reaches first.
        OneOf(&[RunsOutOfMemory, Fails("Error: ")]),
    ),
    row(
        "is nested in blocks",
        Source(|| {
            let lines = (0..200).map(|depth| format!("{}if 1:\n", " ".repeat(depth)));
            format!(
                "{}{}pass{HONEST}",
                lines.collect::<String>(),
                " ".repeat(200)
            )
        }),
        Both(Fails("SyntaxError: too many levels of indentation")),
    ),
    row(
        "is a call of many",
        Source(|| format!("x = f{}{HONEST}", "()".repeat(100_000))),
        // Python's versions count the depth differently.
        OneOf(&[Fails("RecursionError"), RunsOutOfMemory]),
    ),
    row(
        "is compiled to twice as much with each line",
        Source(|| {
            // The body of `finally` is compiled once for each path to it.
            let mut source = "def g():\n".to_owned();
            for depth in 1..20 {
                let margin = " ".repeat(depth);
                source += &format!("{margin}try: x\n{margin}finally:\n");
            }
            format!("{source}{}x\n{HONEST}", " ".repeat(20))
        }),
        Both(RunsOutOfMemory),
    ),
    row(
        "works out large constants while it is compiled",
        Source(|| {
            let lines = (0..500).map(|n| format!("x = ((({n} << 99) ** 99) ** 9 % 7, ) * 4096\n"));
            format!("{}{HONEST}", lines.collect::<String>())
        }),
        Both(Passes),
    ),
    row(
        "holds a number with a million digits",
        Source(|| format!("x = {}{HONEST}", "9".repeat(1_000_000))),
        // Python 3.11 limits the digits; older versions are slow.
        OneOf(&[Fails("SyntaxError: Exceeds the limit"), TimesOut]),
    ),
    row(
        "compiles more at the second call",
        SecondCall("return eval('-' * 1_000_000 + '1', {})"),
        // For the same reason as in the case nested in signs.
        OneOf(&[RunsOutOfMemory, Fails("Error")]),
    ),
    row(
        "has ten megabytes of comments",
        Source(|| format!("{}{HONEST}", "# 4567890123456\n".repeat(650_000))),
        Both(Passes),
    ),
    row(
        "has ten megabytes of one text",
        Source(|| format!("x = '{}'{HONEST}", "é".repeat(5 << 20))),
        Both(Passes),
    ),
    row(
        "has ten megabytes of code",
        Source(|| format!("{}{HONEST}", "x = [x, x]\n".repeat(950_000))),
        Both(RunsOutOfMemory),
    ),
    row(
        "has more megabytes than are read",
        Source(|| format!("{}{HONEST}", "#\n".repeat(9 << 20))),
        Both(Fails("the program has more than 16 MiB")),
    ),
    row(
        "has a NUL in its middle",
        Source(|| format!("x = 1\0{HONEST}")),
        Both(Fails(
            "SyntaxError: source code string cannot contain null bytes",
        )),
    ),
    row(
        "is nothing but NULs",
        Source(|| "\0".repeat(1 << 20)),
        Both(Fails(
            "SyntaxError: source code string cannot contain null bytes",
        )),
    ),
    row(
        "is nothing",
        Source(String::new),
        Both(Fails("NameError: name 'f' is not defined")),
    ),
    row(
        "claims to be written in another encoding",
        Source(|| format!("# -*- coding: utf-7 -*-\nx = '+AAA-'; y = 1 / (len(x) > 1){HONEST}")),
        Both(Passes),
    ),
    row(
        "answers with half a character",
        Body(r"return '\ud800'"),
        Both(Passes),
    ),
    row(
        "raises an error with half a character",
        Body(r"raise ValueError('\udfff\ud800')"),
        Both(Fails(r"ValueError: \udfff\ud800")),
    ),
    row(
        "raises an error that cannot be described",
        Body("class Odd(Exception):\n    def __str__(self): return 7\nraise Odd"),
        Both(Fails("Exception: an exception that cannot be described")),
    ),
    row(
        "would paint the reader's terminal",
        Body(r"raise ValueError('\x1b[2J\x1b]0;x\x07\u202e\u2028\n\0')"),
        Both(Fails(r"ValueError: \x1b[2J")),
    ),
    row(
        "would paint the reader's terminal by its name",
        Body(r"raise type('\x1b[31m\n' * 9999, (Exception,), {})"),
        Both(Fails(r"\x1b[31m\n\x1b[31m\n")),
    ),
];
