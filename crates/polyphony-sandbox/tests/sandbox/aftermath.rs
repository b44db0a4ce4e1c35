//! Nothing is left after a program, after a pool, and after a trainer that was killed.

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

/// Plays a trainer in the middle of a batch, until it is killed.
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
                move || pool.run(&program(&source), tests)
            });
        }
    });
}

/// Waits until a helper has reported that it is ready.
fn wait_until_ready(trainer: &mut Child) {
    let mut lines = BufReader::new(trainer.stdout.as_mut().unwrap()).lines();
    // With a single core, the harness begins the line with the test's name.
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
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut processes = HashSet::new();
        while processes.len() < 8 {
            assert!(Instant::now() < deadline, "{tier}: {processes:?}");
            thread::sleep(Duration::from_millis(20));
            processes = descendants(trainer.id());
        }
        trainer.kill().unwrap();
        trainer.wait().unwrap();
        assert_eq!(left_of(&processes), [], "{tier}");
    }
}

/// Plays a trainer that is stopped just after it has cloned itself, while the clone waits for a byte from
/// it. It stays stopped until it is killed.
pub(crate) fn start_and_be_held(tier: &str) {
    // The first thing it does after the clone is to open a pidfd of the clone.
    let listener = hold_at(libc::SYS_pidfd_open);
    thread::scope(|scope| {
        scope.spawn(|| {
            wait_for_a_call(listener);
            println!("ready");
        });
        drop(pool(tier, 1, SHORT));
    });
}

/// From now on, this system call stops every thread that this one starts. Returns the descriptor that
/// notifies of such a call.
fn hold_at(call: libc::c_long) -> libc::c_int {
    const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const SKIP_UNLESS: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let step = |code, jf, k| libc::sock_filter { code, jt: 0, jf, k };
    let mut steps = [
        // The call's number is at offset 0 of the filter's input.
        step(LOAD, 0, 0),
        step(SKIP_UNLESS, 1, call as u32),
        step(RETURN, 0, libc::SECCOMP_RET_USER_NOTIF),
        step(RETURN, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog {
        len: steps.len() as u16,
        filter: steps.as_mut_ptr(),
    };
    // SAFETY: the program and its steps live until the calls return.
    let listener = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
            &raw const program,
        )
    };
    assert!(listener >= 0, "{}", io::Error::last_os_error());
    listener as libc::c_int
}

/// Waits until a call is stopped, which nobody will ever answer.
fn wait_for_a_call(listener: libc::c_int) {
    // SAFETY: all zeros are a valid notification, into which the kernel may write.
    let result = unsafe {
        let mut notification: libc::seccomp_notif = std::mem::zeroed();
        libc::ioctl(
            listener,
            libc::SECCOMP_IOCTL_NOTIF_RECV as _,
            &raw mut notification,
        )
    };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
}

/// Whether a process is a sleeping clone of this program that has not become an interpreter yet.
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
        let deadline = Instant::now() + Duration::from_secs(60);
        let processes = loop {
            let processes = descendants(trainer.id());
            if processes.iter().any(is_waiting_copy) {
                break processes;
            }
            let is_late = Instant::now() >= deadline;
            assert!(!is_late, "{tier}: no clone waits: {processes:?}");
            thread::sleep(Duration::from_millis(5));
        };
        trainer.kill().unwrap();
        trainer.wait().unwrap();
        assert_eq!(left_of(&processes), [], "{tier}");
    }
}

/// Runs a thousand programs, of which every tenth never ends, and checks that nothing is left.
pub(crate) fn run_a_thousand(tier: &str) {
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
    let verdict_of = |index: usize| {
        let body = match index % 20 {
            0 => "while True: pass",
            10 => "while True: __import__('time').sleep(1)",
            _ => "return x",
        };
        let source = format!("def f(x):\n    {body}\n");
        pool.run(&program(&source), &tests).unwrap().verdict
    };
    let verdicts: Vec<(usize, Verdict)> = thread::scope(|scope| {
        let threads = (0..THREADS).map(|first| {
            let indices = (first..PROGRAMS).step_by(THREADS);
            scope.spawn(move || {
                indices
                    .map(|index| (index, verdict_of(index)))
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
        // On an overloaded machine an honest program may time out too.
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
    // Between programs, each zygote has two descriptors. All of them share /dev/null and the Landlock
    // rules.
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
    let passes = || pool.run(&honest, &tests).unwrap().verdict == Verdict::Passed;
    assert!(passes());
    let zygotes = descendants(process::id());
    assert_eq!(zygotes.len(), 2);
    for zygote in &zygotes {
        let pid = Pid::from_raw(zygote.pid as i32).unwrap();
        // A zygote has its own session, so that a Ctrl-C at the terminal only reaches the trainer.
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
