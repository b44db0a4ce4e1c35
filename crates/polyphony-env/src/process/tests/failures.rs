//! Programs that fail. Every error names the program and says what to do.

use std::{
    fs,
    sync::{Mutex, Once},
};

use polyphony_episode::EnvironmentSettings;

use super::*;

/// The error of building the environment, which names the program.
fn build_error(process: &Process) -> String {
    let message = with_sources(&process.build().err().unwrap());
    let start = "the environment's program cannot be used: `python3 -c";
    assert!(message.starts_with(start), "{message}");
    message
}

#[track_caller]
fn check(message: &str, expected: &[&str]) {
    for expected in expected {
        assert!(message.contains(expected), "{message}\nlacks {expected}");
    }
}

#[test]
fn a_missing_program_cannot_be_started() {
    let process = Process::new(["polyphony-no-such-program", "x.py"]);
    let message = with_sources(&process.build().err().unwrap());
    check(
        &message,
        &[
            "`polyphony-no-such-program x.py` cannot be started: check that the first word",
            ": No such file or directory",
        ],
    );
    let mut process = program(HELLO, END);
    process.cwd = Some("/polyphony-no-such-folder".into());
    check(
        &build_error(&process),
        &["cannot be started", "`cwd` is a directory"],
    );
}

#[test]
fn a_program_that_ends_at_once_is_shown_with_its_standard_error() {
    let script = "import sys; print('no plate', file=sys.stderr); sys.exit(3)";
    let message = build_error(&Process::new(["python3", "-c", script]));
    check(
        &message,
        &[
            "ended before it answered `hello`",
            "exit status: 3",
            "no plate",
        ],
    );
    let message = build_error(&Process::new(["python3", "-c", "1 / 0"]));
    check(&message, &["ZeroDivisionError"]);
}

#[test]
fn a_missing_or_wrong_handshake_is_an_error() {
    let mut process = program("pass", END);
    process.start_secs = 0.3;
    let message = build_error(&process);
    let late = "did not answer `hello` within 0.3 s (nothing was received); raise `start_secs`";
    check(&message, &[late, "flushes it"]);
    let message = build_error(&program("reply(protocol=2)", END));
    check(
        &message,
        &["does not allow: it speaks protocol 2, but Polyphony speaks protocol 1"],
    );
    let message = build_error(&program("print('Welcome!')", END));
    check(
        &message,
        &[
            "is not JSON",
            "\"Welcome!\"",
            "everything else on standard error",
        ],
    );
}

#[test]
fn garbage_is_shown_and_the_next_call_gets_a_new_worker() {
    let step = format!(
        r#"
        if call["responses"][0]["text"] == "a":
            print("\x1b[2J" + "x" * 1000)
        else:
            {END}"#
    );
    let game = program(HELLO, &step).build().unwrap();
    let message = super::step(&*game).unwrap_err();
    let task_and_program = "task `t`: `python3 -c";
    check(
        &message,
        &[
            task_and_program,
            "answered `step`",
            "is not JSON",
            r#""\u{1b}[2Jxxx"#,
        ],
    );
    check(&message, &["… (1004 bytes)"]);
    assert!(message.len() < 1200, "{message}");
    let right = game.step(&task(), &[], &action(["b", "b"])).unwrap();
    assert_eq!(right.reward.total(), 1.0);
}

#[test]
fn an_answer_that_never_comes_is_late() {
    for (step, received) in [
        ("pass", "(nothing was received)"),
        (
            r#"sys.stdout.write('{"id": 1'); sys.stdout.flush()"#,
            r#"(received "{\"id\": 1" without a line end)"#,
        ),
        // A program that waits for something other than its input.
        ("time.sleep(3600)", "(nothing was received)"),
    ] {
        let mut process = program(HELLO, step);
        process.step_secs = 0.2;
        let game = process.build().unwrap();
        let message = super::step(&*game).unwrap_err();
        check(
            &message,
            &[
                "did not answer `step` within 0.2 s",
                received,
                "raise `step_secs`",
            ],
        );
        assert!(game.start(&task()).is_ok());
    }
}

#[test]
fn an_answer_that_is_too_long_is_refused_and_cut() {
    let mut process = program(HELLO, r#"sys.stdout.write("y" * 10_000_000)"#);
    process.max_reply_bytes = std::num::NonZeroUsize::new(5000).unwrap();
    let game = process.build().unwrap();
    let message = super::step(&*game).unwrap_err();
    check(
        &message,
        &["with a line of more than 5000 bytes", "begins \"yyy"],
    );
    check(&message, &["raise `max_reply_bytes`"]);
    assert!(message.len() < 1200, "{message}");
}

#[test]
fn an_answer_to_another_call_is_refused() {
    let step = r#"print(json.dumps({"id": 77, "reward": {"x": 1}, "end": True}))"#;
    let message = super::step(&*program(HELLO, step).build().unwrap()).unwrap_err();
    check(
        &message,
        &[
            "answered `step`, which has the id",
            r#"{\"id\": 77"#,
            "one line per call",
        ],
    );
    // A second answer to the same call.
    let hello = format!("{HELLO}; reply()");
    let message = super::step(&*program(&hello, END).build().unwrap()).unwrap_err();
    check(
        &message,
        &["answered `step`, which has the id", r#"{\"id\": 0}"#],
    );
}

#[test]
fn a_program_that_dies_is_restarted_once() {
    let folder = tempfile::tempdir().unwrap();
    let dies_until = |marks: usize| {
        let step = format!(
            r#"
        folder = {:?}
        if len(os.listdir(folder)) < {marks}:
            open(os.path.join(folder, str(os.getpid())), "w").close()
            print("out of order", file=sys.stderr)
            os._exit(5)
        {END}"#,
            folder.path()
        );
        program(HELLO, &step).build().unwrap()
    };
    let game = dies_until(1);
    assert_eq!(super::step(&*game).unwrap().reward.total(), 1.0);
    let counters = game.counters();
    assert_eq!(
        (counters[0].key.to_string().as_str(), counters[0].total),
        ("process/restarts", 1.0)
    );
    assert!(counters[1].key.is_timing() && counters[1].total > 0.0);

    let message = super::step(&*dies_until(3)).unwrap_err();
    let twice = "was restarted and ended again before it answered `step`: exit status: 5";
    check(&message, &[twice, "out of order"]);
}

#[test]
fn a_program_that_was_killed_between_two_calls_is_restarted() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pid");
    let with = |key: &str| {
        let hello = hello_with_pid(key);
        let hello = format!("open({file:?}, 'w').write(str(os.getpid())); {hello}");
        let game = program(&hello, END).start().unwrap();
        kill(fs::read_to_string(&file).unwrap().parse().unwrap());
        super::step(&game)
    };
    assert!(with("description").is_ok());
    let message = with("solved_at").unwrap_err();
    check(
        &message,
        &["answered the handshake with a different value of `solved_at` in another worker"],
    );
}

fn kill(pid: i64) {
    let pid = rustix::process::Pid::from_raw(pid.try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

#[test]
fn an_error_from_the_program_is_passed_on_and_the_worker_survives() {
    let step = r#"
        if call["task"]["id"] == "t":
            reply(error=f"no plate in {os.getpid()}")
        else:
            reply(reward={"x": os.getpid()}, end=True)"#;
    let game = program(HELLO, step).build().unwrap();
    let message = super::step(&*game).unwrap_err();
    check(&message, &["reports an error in `step`: no plate in "]);
    let next_task = Task::new("u", [("text", "x")]);
    let pid = game
        .step(&next_task, &[], &action(["a", "b"]))
        .unwrap()
        .reward
        .total();
    assert!(
        message.ends_with(&format!("no plate in {pid}")),
        "{message}, {pid}"
    );
}

/// Records what the program in the next test writes to the log.
struct RecordingLog(Mutex<Vec<String>>);

impl log::Log for RecordingLog {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let text = format!("{} {}", record.level(), record.args());
        if text.contains("log-test") {
            self.0.lock().unwrap().push(text);
        }
    }

    fn flush(&self) {}
}

static LOG: RecordingLog = RecordingLog(Mutex::new(Vec::new()));

#[test]
fn standard_error_goes_to_the_log_line_by_line() {
    static SET: Once = Once::new();
    SET.call_once(|| log::set_logger(&LOG).unwrap());
    log::set_max_level(log::LevelFilter::Info);
    let step = format!(
        r#"
        print("log-test one\nlog-test \x1b[31mtwo", file=sys.stderr, flush=True)
        sys.stderr.write("log-test three")
        sys.stderr.flush()
        {END}"#
    );
    let game = program(HELLO, &step).build().unwrap();
    super::step(&*game).unwrap();
    drop(game);
    let lines = LOG.0.lock().unwrap().clone();
    let lines: Vec<&str> = lines
        .iter()
        .filter(|line| line.starts_with("INFO"))
        .filter_map(|line| line.rsplit_once("log-test ").map(|(_, rest)| rest))
        .collect();
    assert_eq!(lines, ["one", "\u{fffd}[31mtwo", "three"]);
}
