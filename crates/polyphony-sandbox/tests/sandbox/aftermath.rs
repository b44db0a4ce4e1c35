//! Nothing is left: after a program, after a pool, after a trainer that was killed.

use std::{
    collections::HashSet,
    env, fs,
    io::{BufRead, BufReader},
    process::{self, Child, Stdio},
    thread,
    time::{Duration, Instant},
};

use polyphony_sandbox::{Isolation, Limits, Pool, Settings, Verdict};

use rustix::process::{Pid, Signal, getsid, kill_process};

use crate::{
    pools::{SHORT, TIERS, check_of, program},
    processes::{Process, descendants, helper, left_of, run},
};

fn pool(tier: &str, workers: usize, limits: Limits) -> Pool {
    let isolation = match tier {
        "full" => Isolation::Strongest,
        _ => Isolation::Landlock,
    };
    let pool = Pool::start(&Settings {
        workers: Some(workers),
        isolation,
        limits,
        ..Settings::default()
    });
    let pool = pool.unwrap();
    assert_eq!(pool.tier().to_string(), tier);
    pool
}

/// Plays a trainer in the middle of a batch, for as long as it lives.
pub(crate) fn train_until_killed(tier: &str) {
    let limits = Limits {
        cpu_secs: 600,
        wall_secs: 600,
        ..SHORT
    };
    let pool = pool(tier, 2, limits);
    let tests = check_of(&["assert candidate() == 1"]);
    println!("ready");
    thread::scope(|scope| {
        for body in ["while True: pass", "import time\n    time.sleep(600)"] {
            let source = format!("def f():\n    {body}\n");
            scope.spawn({
                let (pool, tests) = (&pool, &tests);
                move || pool.judge(&program(&source), tests)
            });
        }
    });
}

/// Waits until a helper has said that it is.
fn wait_until_ready(trainer: &mut Child) {
    let mut lines = BufReader::new(trainer.stdout.as_mut().unwrap()).lines();
    // Where there is one core, the harness has begun the line with the test's name.
    assert!(lines.any(|line| line.unwrap().ends_with("ready")));
}

#[test]
fn a_killed_trainer_leaves_no_process() {
    for tier in TIERS {
        let mut trainer = helper(&format!("trainer {tier}"), Vec::new())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        wait_until_ready(&mut trainer);
        // Two solvers, two judges, and a zygote for each of them.
        let end = Instant::now() + Duration::from_secs(60);
        let mut below = HashSet::new();
        while below.len() < 8 {
            assert!(Instant::now() < end, "{tier}: {below:?}");
            thread::sleep(Duration::from_millis(20));
            below = descendants(trainer.id());
        }
        trainer.kill().unwrap();
        trainer.wait().unwrap();
        assert_eq!(left_of(&below), [], "{tier}");
    }
}

/// Plays a trainer that does nothing but start pools, for as long as it lives.
pub(crate) fn start_until_killed(tier: &str) {
    println!("ready");
    loop {
        drop(pool(tier, 1, SHORT));
    }
}

/// Whether a process is still a copy of this program, which has not become an interpreter yet.
fn is_copy(process: &Process) -> bool {
    let program = fs::read_link(format!("/proc/{}/exe", process.pid));
    program.is_ok_and(|program| program == env::current_exe().unwrap())
}

/// Stops a process whenever it may have a copy of itself that waits for it; returns once it has.
fn stop_with_a_waiting_copy(trainer: u32) -> HashSet<Process> {
    // What is not waiting has become an interpreter by then, or has ended.
    const LOOKS: usize = 200;
    let pid = Pid::from_raw(trainer.try_into().unwrap()).unwrap();
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        assert!(Instant::now() < end, "no copy of the trainer ever waited");
        kill_process(pid, Signal::STOP).unwrap();
        let waits = || descendants(trainer).iter().any(is_copy);
        if (0..LOOKS).all(|_| waits()) {
            return descendants(trainer);
        }
        kill_process(pid, Signal::CONT).unwrap();
        thread::yield_now();
    }
}

#[test]
fn a_trainer_killed_while_it_starts_leaves_no_process() {
    for tier in TIERS {
        let mut trainer = helper(&format!("starter {tier}"), Vec::new())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        wait_until_ready(&mut trainer);
        let below = stop_with_a_waiting_copy(trainer.id());
        trainer.kill().unwrap();
        trainer.wait().unwrap();
        assert_eq!(left_of(&below), [], "{tier}");
    }
}

/// Judges a thousand programs of which every tenth never ends, and looks at what is left.
pub(crate) fn judge_a_thousand(tier: &str) {
    const PROGRAMS: usize = 1000;
    const THREADS: usize = 8;
    let limits = Limits {
        wall_secs: 1,
        cpu_secs: 1,
        ..SHORT
    };
    let descriptors = || fs::read_dir("/proc/self/fd").unwrap().count();
    let before = descriptors();
    let pool = pool(tier, THREADS, limits);
    let tests = check_of(&["assert candidate(3) == 3"]);
    let judge = |index: usize| {
        let body = match index % 20 {
            0 => "while True: pass",
            10 => "while True: __import__('time').sleep(1)",
            _ => "return x",
        };
        let source = format!("def f(x):\n    {body}\n");
        pool.judge(&program(&source), &tests).unwrap().verdict
    };
    let verdicts: Vec<(usize, Verdict)> = thread::scope(|scope| {
        let threads = (0..THREADS).map(|first| {
            let indices = (first..PROGRAMS).step_by(THREADS);
            scope.spawn(move || {
                indices
                    .map(|index| (index, judge(index)))
                    .collect::<Vec<_>>()
            })
        });
        let threads: Vec<_> = threads.collect();
        let verdicts = threads.into_iter().map(|thread| thread.join().unwrap());
        verdicts.flatten().collect()
    });
    assert_eq!(verdicts.len(), PROGRAMS);
    for (index, verdict) in verdicts {
        // On a machine with more to do than cores an honest program may not get its turn in time.
        match index % 10 {
            0 => assert_eq!(verdict, Verdict::Timeout, "{index}"),
            _ => assert!(
                matches!(verdict, Verdict::Passed | Verdict::Timeout),
                "{index}"
            ),
        }
    }
    let counters = pool.counters();
    assert_eq!(counters.runs, PROGRAMS as u64);
    assert!(
        counters.timeouts >= 100 && counters.timeouts < 500,
        "{counters:?}"
    );
    assert_eq!((counters.violations, counters.out_of_memory), (0, 0));
    assert_eq!(counters.infrastructure_retries, 0);
    // Between programs there are the zygotes, with two descriptors each, and those that all share:
    // /dev/null and the Landlock rules.
    assert_eq!(descriptors(), before + 4 * THREADS + 2);
    let zygotes = descendants(process::id());
    assert_eq!(zygotes.len(), 2 * THREADS, "{zygotes:?}");
    drop(pool);
    assert_eq!(descendants(process::id()), HashSet::new());
    println!("nothing is left");
}

#[test]
fn a_thousand_programs_end_and_leave_nothing() {
    for tier in TIERS {
        let printed = run(&format!("thousand {tier}"), Vec::new());
        assert!(printed.contains("nothing is left"), "{tier}: {printed}");
    }
}

/// Kills the zygotes of a pool between two programs.
pub(crate) fn replace_zygotes(tier: &str) {
    let pool = pool(tier, 1, SHORT);
    let tests = check_of(&["assert candidate(3) == 3"]);
    let honest = program("def f(x):\n    return x\n");
    let passes = || pool.judge(&honest, &tests).unwrap().verdict == Verdict::Passed;
    assert!(passes());
    let zygotes = descendants(process::id());
    assert_eq!(zygotes.len(), 2);
    for zygote in &zygotes {
        let pid = Pid::from_raw(zygote.pid as i32).unwrap();
        // In a session of its own: a Ctrl-C at the terminal is for the trainer alone.
        assert_eq!(getsid(Some(pid)).unwrap(), pid);
        kill_process(pid, Signal::KILL).unwrap();
    }
    assert!(passes());
    assert_eq!(pool.counters().infrastructure_retries, 1);
    assert_eq!(left_of(&zygotes), []);
    assert_eq!(descendants(process::id()).len(), 2);
    println!("replaced");
}

#[test]
fn a_zygote_that_dies_is_replaced_and_the_program_run_again() {
    for tier in TIERS {
        let printed = run(&format!("zygotes {tier}"), Vec::new());
        assert!(printed.contains("replaced"), "{tier}: {printed}");
    }
}
