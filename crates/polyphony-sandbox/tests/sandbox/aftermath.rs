//! Nothing is left: after a program, after a pool, after a trainer that was killed.

use std::{
    collections::HashSet,
    env, fs,
    io::{self, BufRead, BufReader},
    process::{self, Child, Stdio},
    thread,
    time::{Duration, Instant},
};

use polyphony_sandbox::{Isolation, Limits, Pool, SandboxConfig, Verdict};

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
    let pool = Pool::start(&SandboxConfig {
        workers: Some(workers),
        isolation,
        limits,
        ..SandboxConfig::default()
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

/// Plays a trainer that is held where it has just made a copy of itself, which waits for a word from
/// it. It is held for as long as it lives.
pub(crate) fn start_and_be_held(tier: &str) {
    // What it does first after the clone is to open a descriptor of the copy.
    let held = hold_at(libc::SYS_pidfd_open);
    thread::scope(|scope| {
        scope.spawn(|| {
            wait_for_a_call(held);
            println!("ready");
        });
        drop(pool(tier, 1, SHORT));
    });
}

/// From here on, whatever thread this one starts is held when it makes a system call. Gives the
/// descriptor that tells of it.
fn hold_at(call: libc::c_long) -> libc::c_int {
    const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const SKIP_UNLESS: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const ANSWER: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let step = |code, jf, k| libc::sock_filter { code, jt: 0, jf, k };
    let mut steps = [
        // The call's number is the first thing that a filter can load.
        step(LOAD, 0, 0),
        step(SKIP_UNLESS, 1, call as u32),
        step(ANSWER, 0, libc::SECCOMP_RET_USER_NOTIF),
        step(ANSWER, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog {
        len: steps.len() as u16,
        filter: steps.as_mut_ptr(),
    };
    // SAFETY: the program and its steps live until the calls return.
    let told = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
            &raw const program,
        )
    };
    assert!(told >= 0, "{}", io::Error::last_os_error());
    told as libc::c_int
}

/// Waits until a call is held, which nobody will ever answer.
fn wait_for_a_call(held: libc::c_int) {
    // SAFETY: all zeros are a notification in which the kernel may write.
    let told = unsafe {
        let mut notification: libc::seccomp_notif = std::mem::zeroed();
        libc::ioctl(
            held,
            libc::SECCOMP_IOCTL_NOTIF_RECV as _,
            &raw mut notification,
        )
    };
    assert_eq!(told, 0, "{}", io::Error::last_os_error());
}

/// Whether a process is a copy of this program, which has not become an interpreter yet, and sleeps.
fn is_waiting_copy(process: &Process) -> bool {
    let file = |name: &str| format!("/proc/{}/{name}", process.pid);
    let is_copy = fs::read_link(file("exe")).is_ok_and(|path| path == env::current_exe().unwrap());
    let status = fs::read_to_string(file("status")).unwrap_or_default();
    is_copy && status.contains("S (sleeping)")
}

#[test]
fn a_trainer_killed_while_it_starts_leaves_no_process() {
    for tier in TIERS {
        let mut trainer = helper(&format!("starter {tier}"), Vec::new())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        wait_until_ready(&mut trainer);
        let end = Instant::now() + Duration::from_secs(60);
        let copies = loop {
            let below = descendants(trainer.id());
            if below.iter().any(is_waiting_copy) {
                break below;
            }
            assert!(Instant::now() < end, "{tier}: no copy waits: {below:?}");
            thread::sleep(Duration::from_millis(5));
        };
        trainer.kill().unwrap();
        trainer.wait().unwrap();
        assert_eq!(left_of(&copies), [], "{tier}");
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
    let is_late = |(_, verdict): &&(usize, Verdict)| *verdict == Verdict::Timeout;
    let timeouts = verdicts.iter().filter(is_late).count();
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
    assert_eq!(counters.timeouts, timeouts as u64, "{counters:?}");
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
