//! After a signal, a run finishes the current step and saves the agents.

#![cfg(unix)]

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    os::unix::process::CommandExt as _,
    process::{Child, ChildStderr, ExitStatus, Stdio},
};

use libc::{SIG_DFL, SIG_IGN, SIGHUP, SIGINT, SIGTERM, c_int, sighandler_t};

use crate::{
    command::{TestDir, python},
    resume::{self, RunRecords},
    training_run,
};

/// A command whose log is read line by line.
struct Running {
    child: Child,
    log: BufReader<ChildStderr>,
}

impl Running {
    /// Starts a command with the default reactions to SIGHUP and SIGINT, even if the tests ignore them.
    fn start(dir: &TestDir, arguments: &[&str]) -> Self {
        Self::with_hangup(dir, arguments, SIG_DFL)
    }

    /// Starts a command with this reaction to SIGHUP.
    fn with_hangup(dir: &TestDir, arguments: &[&str], reaction: sighandler_t) -> Self {
        let mut command = dir.command(arguments);
        command.stderr(Stdio::piped());
        let react = move || {
            // SAFETY: `signal` may be called after a fork, and the closure does nothing else.
            unsafe {
                libc::signal(SIGHUP, reaction);
                libc::signal(SIGINT, SIG_DFL);
            }
            Ok(())
        };
        // SAFETY: the closure calls only functions that may be called after a fork.
        let mut child = unsafe { command.pre_exec(react) }.spawn().unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        Self { child, log }
    }

    /// Reads to the first line that contains `text`.
    #[track_caller]
    fn wait_for(&mut self, text: &str) {
        let mut line = String::new();
        while !line.contains(text) {
            line.clear();
            let read = self.log.read_line(&mut line).unwrap();
            assert_ne!(read, 0, "the run ended before `{text}`");
        }
    }

    fn send(&self, signal: c_int) {
        // SAFETY: the process has not been waited for, so no other process has its id.
        let outcome = unsafe { libc::kill(self.child.id() as c_int, signal) };
        assert_eq!(outcome, 0);
    }

    /// The rest of the command's log, and its exit status.
    fn end(mut self) -> (String, ExitStatus) {
        let mut rest = String::new();
        self.log.read_to_string(&mut rest).unwrap();
        (rest, self.child.wait().unwrap())
    }
}

/// Runs a command and sends Ctrl-C as soon as its log has a line that contains `text`. Returns the rest of
/// the log when the command has ended.
fn interrupted_at(dir: &TestDir, text: &str, arguments: &[&str]) -> String {
    let mut running = Running::start(dir, arguments);
    running.wait_for(text);
    running.send(SIGINT);
    let (rest, status) = running.end();
    assert!(status.success(), "{rest}");
    rest
}

#[test]
fn an_interrupted_run_ends_in_order() {
    let dir = training_run::test_dir();
    let rest = interrupted_at(
        &dir,
        "step 1 of 300",
        &["train", "recipe.ron", "--run-dir", "run", "--steps", "300"],
    );

    let steps = dir.read_lines("run/metrics.jsonl").len();
    assert!((1..300).contains(&steps));
    assert_eq!(dir.read_lines("run/rollouts.jsonl").len(), 2 * steps);
    let plural = if steps == 1 { "" } else { "s" };
    let expected = format!("Trained {steps} step{plural}.");
    assert!(rest.contains(&expected), "{rest}");
    assert!(rest.contains(" resume run\n"), "{rest}");
    for role in ["summarizer", "elaborator"] {
        polyphony_test_support::load(&dir.path("run/agents").join(role));
    }

    // The run resumes with the step after the last one.
    let more = (steps + 2).to_string();
    dir.succeed(&["resume", "run", "--steps", &more]);
    let numbers = dir.read_lines("run/metrics.jsonl").into_iter();
    let numbers: Vec<u64> = numbers.map(|line| line["step"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (1..=steps as u64 + 2).collect::<Vec<_>>());
}

/// The arguments of a run that is long enough to be stopped in the middle.
fn long_run(run: &str) -> [&str; 8] {
    let evaluation = "evaluation=(tasks: 1, samples: 2, every: 20)";
    let train = ["train", "recipe.ron", "--steps", "40", "--run-dir", run];
    [&train[..], &["--set", evaluation]]
        .concat()
        .try_into()
        .unwrap()
}

#[test]
fn a_run_ended_by_the_system_resumes_as_if_it_had_not_stopped() {
    let dir = resume::test_dir();
    dir.succeed(&long_run("whole"));
    let whole = RunRecords::read(&dir, "whole");
    for (run, signal, expected) in [("ended", SIGTERM, 143), ("hung-up", SIGHUP, 129)] {
        let mut running = Running::start(&dir, &long_run(run));
        running.wait_for("step 1 of 40");
        running.send(signal);
        running.wait_for("ending after the current step or batch");
        // A terminal that closes sends SIGHUP twice.
        running.send(SIGHUP);
        let (rest, status) = running.end();
        assert_eq!(status.code(), Some(expected), "{rest}");
        let steps = dir.read_lines(&format!("{run}/metrics.jsonl")).len();
        assert!((1..40).contains(&steps), "{steps}: {rest}");
        let checkpoint = format!("{run}/checkpoints/step-{steps:06}/state.ron");
        assert!(dir.path(&checkpoint).exists(), "{rest}");
        assert!(rest.contains(&format!(" resume {run}\n")), "{rest}");
        for role in ["summarizer", "elaborator"] {
            polyphony_test_support::load(&dir.path(run).join("agents").join(role));
        }
        dir.succeed(&["resume", run]);
        RunRecords::read(&dir, run).check(&whole, run);
    }
}

#[test]
fn a_run_under_nohup_outlives_its_terminal() {
    let dir = training_run::test_dir();
    let arguments = ["train", "recipe.ron", "--run-dir", "run", "--steps", "3"];
    let mut running = Running::with_hangup(&dir, &arguments, SIG_IGN);
    running.wait_for("writing the run to");
    running.send(SIGHUP);
    let (rest, status) = running.end();
    assert!(status.success(), "{rest}");
    assert_eq!(dir.read_lines("run/metrics.jsonl").len(), 3);
}

/// An environment program that never answers a joint action. Instead, it creates the file `asked`.
const SILENT: &str = r#"
import json, sys
for line in sys.stdin:
    call = json.loads(line)
    tasks = [{"id": "one", "fields": {}}]
    if call["call"] == "hello":
        answer = {"protocol": 1, "roles": [{"name": "a"}], "reward_parts": ["x"],
                  "tasks": {"train": tasks, "held_out": tasks}}
    elif call["call"] == "start":
        answer = {"observations": ["go"]}
    else:
        open("asked", "w").close()
        continue
    print(json.dumps({"id": call["id"], **answer}), flush=True)
"#;

#[test]
fn a_second_signal_ends_the_program_at_once() {
    let dir = training_run::test_dir();
    dir.write("silent.py", SILENT);
    let environment = format!("Process(command: [{:?}, \"silent.py\"])", python());
    dir.write(
        "silent.ron",
        format!(
            "(environment: {environment}, team: Copies(\"model\"), max_new_tokens: 8, steps: 3, \
             algorithm: Magrpo(samples: 2), updates: (learning_rate: 1e-3), evaluation: (tasks: 1))"
        ),
    );
    for (signal, expected) in [(SIGINT, 130), (SIGTERM, 143)] {
        let run = format!("run-{expected}");
        let mut running = Running::start(&dir, &["train", "silent.ron", "--run-dir", &run]);
        running.wait_for("writing the run to");
        // Before the file exists, the first signal alone would end the run.
        while !dir.path("asked").exists() {
            std::thread::yield_now();
        }
        running.send(SIGTERM);
        running.wait_for("SIGTERM: ending after the current step or batch");
        // Two SIGTERMs within a moment count as one request, because `timeout` sends both.
        while running.child.try_wait().unwrap().is_none() {
            running.send(signal);
            std::thread::yield_now();
        }
        let (rest, status) = running.end();
        assert_eq!(status.code(), Some(expected), "{rest}");
        assert!(!rest.contains("Trained"), "{rest}");
        assert!(!dir.path(&run).join("agents").exists(), "{rest}");
        fs::remove_file(dir.path("asked")).unwrap();
    }
}

#[test]
fn an_interrupted_evaluation_is_repeated() {
    let dir = training_run::test_dir();
    let arguments = |run| {
        // Four tasks are played together. The run checks for Ctrl-C before the fifth.
        let evaluation = "evaluation=(tasks: 5, samples: 8)";
        let settings = ["--set", evaluation, "--set", "max_new_tokens=64"];
        let train = ["train", "recipe.ron", "--steps", "1", "--run-dir", run];
        [&train[..], &settings].concat()
    };
    let rest = interrupted_at(&dir, "writing the run to", &arguments("run"));
    assert!(dir.read_lines("run/evaluations.jsonl").is_empty());
    assert!(dir.read_lines("run/metrics.jsonl").is_empty());
    assert!(rest.contains(" resume run\n"), "{rest}");

    dir.succeed(&["resume", "run"]);
    dir.succeed(&arguments("whole"));
    let whole = RunRecords::read(&dir, "whole");
    RunRecords::read(&dir, "run").check(&whole, "interrupted in its first evaluation");
    assert_eq!(dir.read_lines("run/evaluations.jsonl").len(), 2);
}
