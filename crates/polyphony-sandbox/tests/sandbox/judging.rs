//! Which asserts get a verdict, and which verdict.

use polyphony_sandbox::{Pool, SandboxError, Tests, Tier, Verdict};

use crate::pools::{TIERS, check_of, patient_pool, pool, program, run_patiently};

/// The verdict and error of each assert, as one line each. The error of a timeout is left out, since on a
/// busy machine either of the two time limits may be reached first.
fn outcomes(pool: &Pool, tier: Tier, source: &str, tests: &Tests) -> Vec<String> {
    let result = pool.run(&program(source), tests).unwrap();
    assert_eq!(result.tier, tier);
    let lines = result.asserts.iter().map(|outcome| {
        let verdict = serde_json::to_string(&outcome.verdict).unwrap();
        let error = outcome.error.as_deref().unwrap_or("-");
        if outcome.verdict == Verdict::Timeout {
            assert!(error.starts_with("stopped after "), "{error}");
            return "timeout".to_owned();
        }
        format!("{} {error}", verdict.trim_matches('"'))
    });
    lines.collect()
}

fn check(source: &str, lines: &[&str], expected: &[&str]) {
    for tier in TIERS {
        // Programs that must time out do so soon. For all others, a busy machine makes no difference.
        let pool = match expected.contains(&"timeout") {
            true => pool(tier),
            false => patient_pool(tier),
        };
        let outcomes = outcomes(pool, tier, source, &check_of(lines));
        assert_eq!(outcomes, expected, "{tier}: {lines:?}");
    }
}

const DOUBLE: &str = "def f(x):\n    return 2 * x\n";

#[test]
fn each_assert_is_a_separate_test() {
    let rows: &[(&[&str], &[&str])] = &[
        (&["assert candidate(2) == 4"], &["passed -"]),
        (
            &["assert candidate(2) == 5", "assert candidate(3) == 6"],
            &["failed AssertionError", "passed -"],
        ),
        (
            &["assert candidate(2) == 5, f'got {candidate(2)}'"],
            &["failed AssertionError: got 4"],
        ),
        // Asserts of constants get no verdict, and asserts with the same text count as one.
        (&["assert True", "assert 1, 'one'"], &[]),
        (
            &["assert candidate(1) == 2", "assert candidate(1) == 2"],
            &["passed -"],
        ),
        // In a loop, an assert passes if it ran and never failed.
        (
            &["for x in range(9):", "    assert candidate(x) == x + x"],
            &["passed -"],
        ),
        (
            &["for x in range(9):", "    assert candidate(x) < 10"],
            &["failed AssertionError"],
        ),
        (
            &["for x in []:", "    assert candidate(x) < 10"],
            &["failed the assert was never reached"],
        ),
        // A failure does not end the code around it.
        (
            &[
                "def same(x, y):",
                "    assert candidate(x) == y",
                "    return True",
                "assert same(2, 5)",
                "with __import__('contextlib').nullcontext():",
                "    assert candidate(3) == 6",
                "try:",
                "    assert candidate(3) == 7",
                "finally:",
                "    assert candidate(4) == 8",
            ],
            &[
                "failed AssertionError",
                "passed -",
                "passed -",
                "failed AssertionError",
                "passed -",
            ],
        ),
        // An exception outside of asserts fails the asserts that were not reached.
        (
            &[
                "assert candidate(1) == 2",
                "x = candidate(None)",
                "assert x == 3",
            ],
            &[
                "passed -",
                "failed TypeError: unsupported operand type(s) for *: 'int' and 'NoneType'",
            ],
        ),
        (
            &["x = candidate(4)", "assert x == 8", "assert x + 1 == 9"],
            &["passed -", "passed -"],
        ),
        // The function can be called by its own name too, and takes keywords.
        (&["assert f(x=4) == 8"], &["passed -"]),
    ];
    for (lines, expected) in rows {
        check(DOUBLE, lines, expected);
    }
}

#[test]
fn exceptions_cross_by_their_names() {
    let source = "
class Odd(ValueError):
    pass
def f(x):
    if x == 'odd': raise Odd('x is odd')
    if x == 'key': return {}['a']
    if x == 'stop': raise StopIteration
    if x == 'exit': raise SystemExit(0)
    if x == 'own': raise PermissionError('not now')
    if x == 'deep': return f(x)
    if x == 'unicode': return b'\\xff'.decode()
    if x == 'bad':
        class Bad(Exception):
            def __str__(self): raise Bad
        raise Bad
    return 1
";
    let rows = [
        ("odd", "failed Odd: x is odd"),
        ("key", "failed KeyError: a"),
        ("stop", "failed StopIteration"),
        ("exit", "failed SystemExit: 0"),
        ("own", "failed PermissionError: not now"),
        (
            "bad",
            "failed Exception: an exception that cannot be described",
        ),
    ];
    for (which, expected) in rows {
        let line = format!("assert candidate('{which}') == 1");
        check(source, &[&line], &[expected]);
    }
    let caught = [
        ("odd", "ValueError"),
        ("key", "KeyError"),
        ("own", "OSError"),
        ("deep", "RecursionError"),
        ("unicode", "UnicodeDecodeError"),
        ("stop", "RuntimeError"),
    ];
    for (which, kind) in caught {
        let kind = if which == "unicode" {
            "Exception"
        } else {
            kind
        };
        let lines = [
            "try:",
            &format!("    candidate('{which}')"),
            &format!("except {kind}:"),
            "    assert candidate(0) == 1",
        ];
        check(source, &lines, &["passed -"]);
    }
    // The program cannot end an iteration of the tests.
    check(
        source,
        &["assert all(map(candidate, ['stop', 0]))"],
        &["failed StopIteration"],
    );
}

#[test]
fn plain_values_come_back_unchanged() {
    let values = [
        "None",
        "True",
        "-1",
        "1 << 5000",
        "-(1 << 5000)",
        "255",
        "-128",
        "0.1",
        "-0.0",
        "float('inf')",
        "1 - 2j",
        "'naïve \\ud800 \\0'",
        "b'\\xff\\0'",
        "[1, [2, [3]]]",
        "(1, (2,), ())",
        "{'a': [1], 2: (3,), (4, 5): None}",
        "{1, 'two', (3,)}",
        "frozenset({1, 2})",
        "[0.5] * 5000",
    ];
    for value in values {
        let same = format!("assert repr(candidate({value})) == repr({value})");
        let typed = format!("assert type(candidate({value})) is type({value})");
        check(
            "def f(x):\n    return x\n",
            &[&same, &typed],
            &["passed -"; 2],
        );
    }
    let source = "
import collections, enum
class Level(enum.IntEnum):
    LOW = 3
class Name(str):
    pass
Point = collections.namedtuple('Point', 'x y')
VALUES = [collections.Counter('aab'), collections.OrderedDict(a=1), Level.LOW, Name('n'), Point(1, 2),
    float('nan'), range(3), {}.keys(), (x for x in ()), object(), print, [], 'x' * (5 << 20)]
for _ in range(101):
    VALUES[11] = [VALUES[11]]
def f(index):
    return VALUES[index]
";
    check(
        source,
        &[
            "assert candidate(0) == {'a': 2, 'b': 1}",
            "assert type(candidate(1)) is dict",
            "assert type(candidate(2)) is int",
            "assert candidate(3) == 'n'",
            "assert candidate(4) == (1, 2)",
            "assert candidate(5) != candidate(5)",
            "assert candidate(6) == [0, 1, 2]",
            "assert candidate(7) is not None",
            "assert candidate(8) is not None",
            "assert candidate(9) is not None",
            "assert candidate(10) is not None",
            "assert candidate(lambda: 1) is not None",
            "assert candidate(11) is not None",
            "assert candidate(12) is not None",
        ],
        &[
            "passed -",
            "passed -",
            "passed -",
            "passed -",
            "passed -",
            "passed -",
            "failed TypeError: range is not plain data",
            "failed TypeError: dict_keys is not plain data",
            "failed TypeError: generator is not plain data",
            "failed TypeError: object is not plain data",
            "failed TypeError: builtin_function_or_method is not plain data",
            "failed TypeError: function is not plain data",
            "failed TypeError: a value is nested more than 100 deep",
            "failed TypeError: a value takes more than 4 MiB",
        ],
    );
}

#[test]
fn a_syntax_error_has_its_position() {
    let rows = [
        ("def f(x):\n    return (\n", 2, "'(' was never closed"),
        ("x = 1\ndef f(x) return x\n", 2, "expected ':'"),
        (
            "def f(x):\nreturn x\n",
            2,
            "expected an indented block after function definition on line 1",
        ),
        (
            "x = '\0'\n",
            0,
            "source code string cannot contain null bytes",
        ),
    ];
    for (source, line, message) in rows {
        for tier in TIERS {
            let tests = check_of(&["assert candidate(1) == 1"]);
            let result = run_patiently(tier, source, &tests);
            let error = result.syntax_error.unwrap();
            assert_eq!((error.line, error.message.as_str()), (line, message));
            assert_eq!(result.verdict, Verdict::Failed);
            assert_eq!(result.asserts[0].verdict, Verdict::Failed);
        }
    }
}

#[test]
fn a_program_that_does_not_load_fails_every_test() {
    let rows = [
        ("raise ValueError('no')\n", "failed ValueError: no"),
        (
            "import nothing_of_this_name\n",
            "failed ModuleNotFoundError: No module named 'nothing_of_this_name'",
        ),
        ("import sys\nsys.exit(0)\n", "failed SystemExit: 0"),
        (
            "import os\nos._exit(0)\n",
            "failed the program ended its interpreter with exit code 0",
        ),
        ("g = 1\n", "failed NameError: name 'f' is not defined"),
        ("f = 1\n", "failed TypeError: 'int' object is not callable"),
        ("while True: pass\n", "timeout"),
        ("x = [0] * (1 << 30)\n", "out_of_memory MemoryError"),
        (
            "import os\nos.fork()\n",
            "violation PermissionError: [Errno 1] Operation not permitted",
        ),
    ];
    for (source, expected) in rows {
        let lines = ["assert candidate(1) == 1", "assert candidate(2) == 2"];
        check(source, &lines, &[expected; 2]);
    }
}

#[test]
fn time_is_limited_per_test() {
    let source = "
import time
def f(x):
    if x == 'spin':
        while True: pass
    if x == 'sleep':
        time.sleep(60)
    return x
";
    check(
        source,
        &[
            "assert candidate('spin') == 1",
            "assert candidate(1) == 1",
            "assert candidate('sleep') == 1",
            "assert candidate(2) == 2",
        ],
        &["timeout", "passed -", "timeout", "passed -"],
    );
    // After three timeouts the remaining asserts do not run. An assert in a loop has one limit for all
    // rounds.
    check(
        source,
        &[
            "for word in ['spin'] * 9:",
            "    assert candidate(word) == word",
            "assert candidate('spin') == 1",
            "assert candidate('spin') == 2",
            "assert candidate(1) == 1",
        ],
        &[
            "timeout",
            "timeout",
            "timeout",
            "failed not run, since 3 asserts before it ran out of time",
        ],
    );
    // Tests that catch everything do not hide what the host observed.
    check(
        source,
        &[
            "def safe(x):",
            "    try:",
            "        return candidate(x)",
            "    except:",
            "        return 1",
            "assert safe('sleep') == 1",
            "assert safe(1) == 1",
        ],
        &["timeout", "passed -"],
    );
    // An assert that has ended the solver gets no new one. The next assert does.
    check(
        "import os\ndef f(x):\n    return x or os._exit(0)\n",
        &[
            "seen = []",
            "def call(x):",
            "    try:",
            "        seen.append(candidate(x))",
            "    except BaseException as error:",
            "        seen.append(str(error))",
            "    return True",
            "assert call(0) and call(1)",
            "assert seen == ['the program ended its interpreter with exit code 0'] * 2, seen",
            "assert candidate(1) == 1",
        ],
        &[
            "failed the program ended its interpreter with exit code 0",
            "passed -",
            "passed -",
        ],
    );
    // Outside an assert, and in the tests themselves.
    check(
        source,
        &["x = candidate('sleep')", "assert x == 1"],
        &["timeout"],
    );
    check(
        source,
        &[
            "n = candidate(10 ** 9)",
            "assert sum(range(n)) == 1",
            "assert n",
        ],
        &[
            "timeout",
            "failed not run, since the tests were stopped for their time",
        ],
    );
}

#[test]
fn the_most_severe_verdict_is_the_programs() {
    let source = "
import os
def f(x):
    if x == 'fork': os.fork()
    if x == 'grow': return [0] * (1 << 30)
    if x == 'spin':
        while True: pass
    return x
";
    let rows: &[(&[&str], Verdict)] = &[
        (&["1"], Verdict::Passed),
        (&["1", "2"], Verdict::Failed),
        (&["1", "2", "'spin'"], Verdict::Timeout),
        (&["'grow'", "2", "'spin'"], Verdict::OutOfMemory),
        (&["'grow'", "'fork'"], Verdict::Violation),
        (&[], Verdict::Failed),
    ];
    for (arguments, verdict) in rows {
        let lines: Vec<String> = arguments
            .iter()
            .map(|argument| format!("assert candidate({argument}) == 1"))
            .chain(["assert True".to_owned()])
            .collect();
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        for tier in TIERS {
            let pool = match lines.concat().contains("spin") {
                true => pool(tier),
                false => patient_pool(tier),
            };
            let result = pool.run(&program(source), &check_of(&lines)).unwrap();
            assert_eq!(result.verdict, *verdict, "{tier}: {arguments:?}");
        }
    }
}

#[test]
fn tests_that_cannot_be_run_are_an_error() {
    let rows = [
        (
            "",
            "def test(candidate): pass",
            "they define no function `check(candidate)`",
        ),
        (
            "",
            "def check(candidate)\n",
            "Python cannot parse them: expected ':' (<tests>, line 1)",
        ),
        (
            "import nothing_of_this_name",
            "def check(c): pass",
            "their setup fails: ModuleNotFoundError: No module named 'nothing_of_this_name'",
        ),
        (
            "def (",
            "def check(c): pass",
            "their setup fails: SyntaxError: invalid syntax (<setup>, line 1)",
        ),
        (
            "kept = []\ntry:\n    while True: kept.append(bytes(1 << 20))\n\
             except MemoryError: pass\n",
            "def check(c): pass",
            "their setup leaves no memory for what the program returns",
        ),
        (
            "",
            "x = 1 / 0\ndef check(c): pass",
            "they fail before `check`: ZeroDivisionError: division by zero",
        ),
    ];
    for (setup, source, expected) in rows {
        let tests = Tests {
            setup: setup.to_owned(),
            source: source.to_owned(),
        };
        for tier in TIERS {
            match patient_pool(tier).run(&program(DOUBLE), &tests) {
                Err(SandboxError::Tests { reason }) => assert_eq!(reason, expected),
                result => panic!("{result:?}"),
            }
        }
    }
}

#[test]
fn tests_that_fail_on_a_returned_value_fail_the_program() {
    let tests = Tests {
        setup: String::new(),
        source: "def check(candidate):\n    assert candidate(3) == 6\nf(3)[0]\n".to_owned(),
    };
    for tier in TIERS {
        let result = patient_pool(tier).run(&program("def f(x):\n    return None\n"), &tests);
        assert_eq!(result.unwrap().verdict, Verdict::Failed);
    }
}

#[test]
fn tests_that_end_early_in_a_later_round_do_not_pass() {
    let source = "
import os, time
def f(x):
    if x == 'raise': raise ValueError('no')
    if x == 'leave': os._exit(0)
    if x == 'sleep': time.sleep(60)
    if x == 'grow': return [0] * (1 << 30)
    return x
";
    let rows = [
        ("raise", "failed ValueError: no"),
        (
            "leave",
            "failed the program ended its interpreter with exit code 0",
        ),
        ("sleep", "timeout"),
        ("grow", "out_of_memory MemoryError"),
    ];
    for (deed, expected) in rows {
        let rounds = format!("for x in [1, {deed:?}]:");
        let lines = [
            "assert candidate(0) == 0",
            &rounds,
            "    y = candidate(x)",
            "    assert y == x",
        ];
        check(source, &lines, &["passed -", expected]);
    }
}

#[test]
fn a_judge_that_ends_after_a_call_fails_the_program() {
    let rows = [
        (
            "os._exit(0)",
            "failed the tests ended their interpreter with exit code 0",
        ),
        (
            "os._exit(112)",
            "out_of_memory MemoryError: what the program returned left the tests no memory",
        ),
        (
            "os.abort()",
            "failed the interpreter of the tests ended by SIGABRT",
        ),
    ];
    for (deed, expected) in rows {
        let in_an_assert = format!("assert candidate(2) and {deed}");
        check(
            DOUBLE,
            &[
                "import os",
                "assert candidate(1) == 2",
                &in_an_assert,
                "assert candidate(3) == 6",
            ],
            &[
                "passed -",
                expected,
                "failed not run, since an assert before it ended the judge",
            ],
        );
        let in_a_later_round = format!("    x == 2 and {deed}");
        check(
            DOUBLE,
            &[
                "import os",
                "for x in [1, 2]:",
                "    y = candidate(x)",
                &in_a_later_round,
                "    assert y == 2 * x",
            ],
            &[expected],
        );
    }
}

#[test]
fn the_setup_runs_only_in_the_judge() {
    let tests = Tests {
        setup: "import math\ndef secret(x):\n    return math.floor(x) * 7\n".to_owned(),
        source: "def check(candidate):\n    assert candidate(3) == secret(3.5)\n".to_owned(),
    };
    for tier in TIERS {
        assert_eq!(
            outcomes(
                patient_pool(tier),
                tier,
                "def f(x):\n    return 7 * x\n",
                &tests
            ),
            ["passed -"]
        );
        assert_eq!(
            outcomes(
                patient_pool(tier),
                tier,
                "def f(x):\n    return secret(x)\n",
                &tests
            ),
            ["failed NameError: name 'secret' is not defined"]
        );
    }
}
