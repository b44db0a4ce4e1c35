//! Random replies that are small when sent and large in memory.

use std::fmt::Write;

use polyphony_sandbox::{Limits, Tests, Verdict};

use crate::pools::{PATIENT, TIERS, check_of, program, start};

/// The replies of one program, which its tests hold at the same time.
const REPLIES: usize = 10;
/// Programs in each tier: 500 replies in all.
const PROGRAMS: usize = 25;

/// A program that replaces the bytes that its interpreter would send, so that no time is spent on building
/// values. The line before it sets `SEED`.
const SOURCE: &str = r"
import __main__, random, struct

def head(tag, count):
    return tag + struct.pack('<I', count)

def atom(rng):
    return rng.choice([
        b'N', b'T', head(b'S', 0), head(b'd', 0), head(b'l', 0), head(b'd', 1) + b'NN',
        head(b'S', 5) + b'NTF' + head(b't', 0) + head(b'Z', 0),
        b'f' + rng.randbytes(8), b'c' + bytes(16),
        head(b'i', 4) + rng.randbytes(4), head(b'b', 1) + b'x',
        head(b's', 12) + '\U0001f40d'.encode() * 3,
    ])

def shape(rng):
    if rng.random() < 0.1:
        count = rng.randrange(1_000_000)
        text = '\U0001f40d'.encode() + b'x' * (4 * count)
        return head(b's', len(text)) + text
    if rng.random() < 0.1:
        keys = [head(b'i', 4) + struct.pack('<I', n) for n in range(rng.randrange(50_000))]
        tag, value = rng.choice([(b'S', b''), (b'Z', b''), (b'd', atom(rng))])
        return head(tag, len(keys)) + b''.join(key + value for key in keys)
    value, atoms = atom(rng), 1
    for _ in range(rng.randrange(3)):
        count = rng.randrange(1, 9)
        value, atoms = head(rng.choice([b'l', b't']), count) + value * count, atoms * count
    # As many as fit into a reply, but few enough to be read quickly.
    count = rng.randrange(min((4 << 20) // len(value) - 5, 100_000 // atoms))
    return head(b'l', count) + value * count

__main__.encode = lambda value: value

def f(n):
    return shape(random.Random(SEED * 100 + n))
";

/// Ways to hold replies. No program passes any of them.
const HOLDERS: [&[&str]; 6] = [
    &[
        "kept = []",
        "for n in range(REPLIES): kept.append(candidate(n))",
        "assert kept is candidate",
    ],
    &["assert [candidate(n) for n in range(REPLIES)] is candidate"],
    &[
        "global kept",
        "kept = {}",
        "for n in range(REPLIES):",
        "    kept[n] = candidate(n)",
        "    assert kept[n] is candidate, kept[n]",
    ],
    &[
        "kept = []",
        "for n in range(REPLIES):",
        "    try: kept.append(candidate(n))",
        "    except BaseException: pass",
        "assert kept is candidate",
    ],
    &[
        "kept = []",
        "for n in range(REPLIES):",
        "    answer = candidate(n)",
        "    try: kept.append(sorted(map(repr, answer)))",
        "    except TypeError: kept.append([answer] * 2)",
        "assert kept is candidate",
    ],
    &[
        "def inner(n):",
        "    answer = candidate(n)",
        "    if n < REPLIES: inner(n + 1)",
        "    assert answer is candidate, answer",
        "inner(1)",
    ],
];

fn tests(index: usize) -> Tests {
    let lines = HOLDERS[index % HOLDERS.len()];
    let lines = lines
        .iter()
        .map(|line| line.replace("REPLIES", &REPLIES.to_string()));
    let lines: Vec<String> = lines.collect();
    check_of(&lines.iter().map(String::as_str).collect::<Vec<_>>())
}

#[test]
fn no_reply_makes_the_host_fail() {
    // With little memory, it is used up soon.
    let limits = Limits {
        address_space_mb: 128,
        ..PATIENT
    };
    let honest = program("def f(x):\n    return x + x\n");
    let honest_tests = check_of(&["assert candidate(21) == 42"]);
    for (first, tier) in TIERS.into_iter().enumerate() {
        let pool = start(tier, limits);
        let mut complaints = String::new();
        for index in 0..PROGRAMS {
            let seed = TIERS.len() * index + first;
            let hostile = program(&format!("SEED = {seed}\n{SOURCE}"));
            match pool
                .run(&hostile, &tests(index))
                .map(|result| result.verdict)
            {
                Ok(Verdict::Failed | Verdict::OutOfMemory) => {}
                result => writeln!(complaints, "{tier}, seed {seed}: {result:?}").unwrap(),
            }
            match pool
                .run(&honest, &honest_tests)
                .map(|result| result.verdict)
            {
                Ok(Verdict::Passed) => {}
                result => writeln!(complaints, "{tier}, after seed {seed}: {result:?}").unwrap(),
            }
        }
        assert_eq!(complaints, "");
        let counters = pool.counters();
        assert_eq!(counters.infrastructure_retries, 0, "{tier}");
        // Otherwise the replies are too small to show anything.
        assert!(counters.out_of_memory > PROGRAMS as u64 / 4, "{counters:?}");
    }
}
