//! Programs whose answers are small on the wire and large in the judge.
//!
//! Five bytes become an empty set of 216 bytes. What matters is how the tests hold the answers: one at a
//! time, all of them, in pairs, or in spite of every exception.

use polyphony_sandbox::Tests;

use super::{Deed::*, Expected::*, Fate::*, Hostile, row};
use crate::pools::check_of;

/// The name holds an answer until it is bound to the next one.
fn one_after_the_other() -> Tests {
    check_of(&[
        "for n in range(9):",
        "    answer = candidate(n)",
        "assert answer == []",
    ])
}

fn all_kept_in_an_assert() -> Tests {
    check_of(&[
        "assert [candidate(n) for n in range(9)] == []",
        "assert candidate(0) == 0",
    ])
}

/// The tests continue as long as they can, whatever happens.
fn all_kept_through_every_exception() -> Tests {
    check_of(&[
        "kept = []",
        "for n in range(30):",
        "    try:",
        "        kept.append(candidate(n))",
        "    except BaseException:",
        "        pass",
        "assert kept == []",
        "assert candidate(0) == 0",
    ])
}

/// The assert passes in the first round and is not reached in the second.
fn pairs() -> Tests {
    check_of(&[
        "for n in range(9):",
        "    pair = candidate(n), candidate(n)",
        "    assert pair == (n, n)",
    ])
}

/// The tests make copies of the answer.
fn copied() -> Tests {
    check_of(&[
        "answer = candidate(0)",
        "copies = []",
        "while True:",
        "    copies.append(list(map(list, answer)))",
        "    assert copies",
    ])
}

/// The answers are in a global, which the end of a frame does not free.
fn kept_in_a_global() -> Tests {
    Tests {
        setup: "kept = []\n".to_owned(),
        source: "def check(candidate):\n    while True: kept.append(candidate(0))\n    \
                 assert kept == 1\n"
            .to_owned(),
    }
}

pub(super) const ROWS: &[Hostile] = &[
    row(
        "answers with sets, then with sets and dictionaries",
        Tested(
            one_after_the_other,
            r"
def f(n):
    if n == 0: return [set() for _ in range(838_000)]
    return [{None: None} if n % 2 else set() for _ in range(300_000)]
",
        ),
        Both(RunsOutOfMemory),
    ),
    row(
        "answers with dictionaries over and over",
        Tested(
            all_kept_in_an_assert,
            "def f(n): return [{None: None}] * 300_000",
        ),
        Both(RunsOutOfMemory),
    ),
    row(
        "answers with less and less to tests that catch everything",
        Tested(
            all_kept_through_every_exception,
            "def f(n): return [set()] * (800_000 >> n // 2)",
        ),
        Both(RunsOutOfMemory),
    ),
    row(
        "answers with wide characters to tests that catch everything",
        Tested(
            all_kept_through_every_exception,
            r"def f(n): return '\U0001f40d' + 'x' * 4_000_000",
        ),
        Both(RunsOutOfMemory),
    ),
    row(
        "is right once, and then answers with sets",
        Tested(pairs, "def f(n): return n and [set()] * 800_000"),
        Both(RunsOutOfMemory),
    ),
    row(
        "answers with sets of which the tests make copies",
        Tested(copied, "def f(n): return [set()] * 400_000"),
        // Without memory, CPython sometimes loses an exception.
        OneOf(&[RunsOutOfMemory, Fails("")]),
    ),
    row(
        "answers with sets that are kept for good",
        Tested(kept_in_a_global, "def f(n): return [set()] * 100_000"),
        Both(RunsOutOfMemory),
    ),
];
