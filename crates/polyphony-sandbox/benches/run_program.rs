//! Measures how long the sandbox takes to run a program.
//!
//! `cargo bench -p polyphony-sandbox`. If `POLYPHONY_HUMANEVAL` names HumanEval's file
//! (`HumanEval.jsonl.gz`), the canonical solutions run as well, and must pass.

use std::{env, fs::File, hint::black_box, io::BufReader, path::PathBuf, time::Duration};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use flate2::bufread::GzDecoder;
use polyphony_sandbox::{Isolation, Limits, Pool, Program, SandboxConfig, Tests, Tier, Verdict};
use serde::Deserialize;

const SOURCE: &str = "
def f(numbers):
    best = None
    for number in numbers:
        if best is None or number > best:
            best = number
    return best
";

const TESTS: &str = "
def check(candidate):
    assert candidate([3, 1, 2]) == 3
    assert candidate([-5]) == -5
    assert candidate([]) is None
    assert candidate(list(range(100))) == 99
    assert candidate([2.5, 2]) == 2.5
    assert candidate(['b', 'a']) == 'b'
    assert candidate([(1, 2), (1, 3)]) == (1, 3)
";

const TIERS: [(&str, Isolation); 2] = [
    ("full", Isolation::Strongest),
    ("landlock", Isolation::Landlock),
];

fn pool(isolation: Isolation) -> Pool {
    let settings = SandboxConfig {
        workers: Some(1),
        isolation,
        ..SandboxConfig::default()
    };
    let pool = Pool::start(&settings).expect("programs can be confined here");
    let strongest = isolation == Isolation::Strongest;
    assert!(
        !strongest || pool.tier() == Tier::Full,
        "this machine has no full tier to measure"
    );
    pool
}

/// One program after the other on one worker: latency, and programs per second.
fn one_program(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("run_program");
    group.throughput(Throughput::Elements(1));
    let program = Program {
        source: SOURCE.to_owned(),
        entry_point: "f".to_owned(),
    };
    let tests = Tests {
        setup: String::new(),
        source: TESTS.to_owned(),
    };
    for (name, isolation) in TIERS {
        let pool = pool(isolation);
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let result = pool.run(black_box(&program), &tests);
                assert_eq!(result.expect("a result").verdict, Verdict::Passed);
            });
        });
    }
    group.finish();
}

/// The start of a pool with one worker: asking the interpreter what it needs, the worker, the self-test.
/// Then the start of a worker alone, which consists of two zygotes.
fn start(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("start");
    group.sample_size(10);
    for (name, isolation) in TIERS {
        group.bench_function(format!("{name}/pool"), |bencher| {
            bencher.iter(|| pool(isolation));
        });
        group.bench_function(format!("{name}/worker"), |bencher| {
            bencher.iter_custom(|rounds| {
                let seconds = (0..rounds).map(|_| pool(isolation).self_test().start_seconds);
                Duration::from_secs_f64(seconds.sum())
            });
        });
    }
    group.finish();
}

/// A program that never ends, with a limit of one second. The time above one second is the delay of the
/// kill.
fn deadline(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("deadline of 1 s");
    group.sample_size(10);
    group.measurement_time(Duration::from_secs(12));
    let program = Program {
        source: "import time\ndef f():\n    time.sleep(60)\n".to_owned(),
        entry_point: "f".to_owned(),
    };
    let tests = Tests {
        setup: String::new(),
        source: "def check(candidate):\n    assert candidate()\n".to_owned(),
    };
    for (name, isolation) in TIERS {
        let pool = Pool::start(&SandboxConfig {
            workers: Some(1),
            isolation,
            limits: Limits {
                wall_secs: 1,
                ..Limits::default()
            },
            ..SandboxConfig::default()
        });
        let pool = pool.expect("programs can be confined here");
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let result = pool.run(&program, &tests);
                assert_eq!(result.expect("a result").verdict, Verdict::Timeout);
            });
        });
    }
    group.finish();
}

#[derive(Deserialize)]
struct Problem {
    task_id: String,
    prompt: String,
    entry_point: String,
    canonical_solution: String,
    test: String,
}

/// All canonical solutions of HumanEval, one after the other on one worker.
fn human_eval(criterion: &mut Criterion) {
    let Some(path) = env::var_os("POLYPHONY_HUMANEVAL").map(PathBuf::from) else {
        return;
    };
    let file = File::open(path).expect("POLYPHONY_HUMANEVAL names a file");
    let reader = BufReader::new(GzDecoder::new(BufReader::new(file)));
    let problems: Vec<Problem> = serde_json::Deserializer::from_reader(reader)
        .into_iter()
        .collect::<Result<_, _>>()
        .expect("HumanEval's lines");
    let mut group = criterion.benchmark_group("humaneval");
    group.sample_size(10);
    group.measurement_time(Duration::from_secs(20));
    for (name, isolation) in TIERS {
        let pool = pool(isolation);
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                for problem in &problems {
                    assert_passes(&pool, problem);
                }
            });
        });
    }
    group.finish();
}

fn assert_passes(pool: &Pool, problem: &Problem) {
    let program = Program {
        source: [&*problem.prompt, &problem.canonical_solution].concat(),
        entry_point: problem.entry_point.clone(),
    };
    // Some tests use functions of the prompt.
    let tests = Tests {
        setup: [&problem.prompt, "    pass\n"].concat(),
        source: problem.test.clone(),
    };
    let result = pool.run(&program, &tests).expect("a result");
    assert_eq!(
        result.verdict,
        Verdict::Passed,
        "{}: {:?}",
        problem.task_id,
        result.asserts
    );
}

criterion_group!(benches, one_program, start, deadline, human_eval);
criterion_main!(benches);
