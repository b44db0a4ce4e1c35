//! Signals: the current step is finished, and the agents are saved.

#![cfg(unix)]

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    os::unix::process::CommandExt as _,
    process::{Child, ChildStderr, ExitStatus, Stdio},
};

use libc::{SIG_DFL, SIG_IGN, SIGHUP, SIGINT, SIGTERM, c_int, sighandler_t};

use crate::{
    command::{Place, python},
    resume::{self, Left},
    training_run,
};

/// A command whose log is read line by line.
struct Running {
    child: Child,
    log: BufReader<ChildStderr>,
}

impl Running {
    /// Starts a command that reacts to signals by default, whoever started the tests.
    fn start(place: &Place, arguments: &[&str]) -> Self {
        Self::with_hangup(place, arguments, SIG_DFL)
    }

    fn with_hangup(place: &Place, arguments: &[&str], reaction: sighandler_t) -> Self {
        let mut command = place.command(arguments);
        command.stderr(Stdio::piped());
        let react = move || {
            // SAFETY: `signal` may be called after a fork, and nothing else is done here.
            unsafe {
                libc::signal(SIGHUP, reaction);
                libc::signal(SIGINT, SIG_DFL);
            }
            Ok(())
        };
        // SAFETY: the closure calls only what may be called after a fork.
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
        // SAFETY: the process has not been waited for, so that its id is its own.
        let sent = unsafe { libc::kill(self.child.id() as c_int, signal) };
        assert_eq!(sent, 0);
    }

    /// What the command still writes, and how it ends.
    fn end(mut self) -> (String, ExitStatus) {
        let mut rest = String::new();
        self.log.read_to_string(&mut rest).unwrap();
        (rest, self.child.wait().unwrap())
    }
}

/// Runs a command to its end, with Ctrl-C as soon as it has written a line that contains `text`; returns
/// what it wrote afterwards.
fn interrupted_at(place: &Place, text: &str, arguments: &[&str]) -> String {
    let mut running = Running::start(place, arguments);
    running.wait_for(text);
    running.send(SIGINT);
    let (rest, status) = running.end();
    assert!(status.success(), "{rest}");
    rest
}

#[test]
fn an_interrupted_run_ends_in_order() {
    let place = training_run::place();
    let rest = interrupted_at(
        &place,
        "step 1 of 300",
        &["train", "recipe.ron", "--run-dir", "run", "--steps", "300"],
    );

    let steps = place.read_lines("run/metrics.jsonl").len();
    assert!((1..300).contains(&steps));
    assert_eq!(place.read_lines("run/rollouts.jsonl").len(), 2 * steps);
    let plural = if steps == 1 { "" } else { "s" };
    let told = format!("Trained {steps} step{plural}.");
    assert!(rest.contains(&told), "{rest}");
    assert!(rest.contains(" resume run\n"), "{rest}");
    for role in ["summarizer", "elaborator"] {
        polyphony_test_support::load(&place.path("run/agents").join(role));
    }

    // It continues with the step after the last one.
    let more = (steps + 2).to_string();
    place.succeed(&["resume", "run", "--steps", &more]);
    let numbers = place.read_lines("run/metrics.jsonl").into_iter();
    let numbers: Vec<u64> = numbers.map(|line| line["step"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (1..=steps as u64 + 2).collect::<Vec<_>>());
}

/// The arguments of a run that is long enough to be ended in its middle.
fn long_run(run: &str) -> [&str; 8] {
    let evaluation = "evaluation=(tasks: 1, samples: 2, every: 20)";
    let of_run = ["train", "recipe.ron", "--steps", "40", "--run-dir", run];
    [&of_run[..], &["--set", evaluation]]
        .concat()
        .try_into()
        .unwrap()
}

#[test]
fn a_run_that_its_system_ends_resumes_as_if_it_had_not_stopped() {
    let place = resume::place();
    place.succeed(&long_run("whole"));
    let whole = Left::read(&place, "whole");
    for (run, signal, expected) in [("ended", SIGTERM, 143), ("hung-up", SIGHUP, 129)] {
        let mut running = Running::start(&place, &long_run(run));
        running.wait_for("step 1 of 40");
        running.send(signal);
        running.wait_for("ending after the current step or batch");
        // A terminal that closes sends it twice.
        running.send(SIGHUP);
        let (rest, status) = running.end();
        assert_eq!(status.code(), Some(expected), "{rest}");
        let steps = place.read_lines(&format!("{run}/metrics.jsonl")).len();
        assert!((1..40).contains(&steps), "{steps}: {rest}");
        let checkpoint = format!("{run}/checkpoints/step-{steps:06}/state.ron");
        assert!(place.path(&checkpoint).exists(), "{rest}");
        assert!(rest.contains(&format!(" resume {run}\n")), "{rest}");
        for role in ["summarizer", "elaborator"] {
            polyphony_test_support::load(&place.path(run).join("agents").join(role));
        }
        place.succeed(&["resume", run]);
        Left::read(&place, run).check(&whole, run);
    }
}

#[test]
fn a_run_under_nohup_outlives_its_terminal() {
    let place = training_run::place();
    let arguments = ["train", "recipe.ron", "--run-dir", "run", "--steps", "3"];
    let mut running = Running::with_hangup(&place, &arguments, SIG_IGN);
    running.wait_for("writing the run to");
    running.send(SIGHUP);
    let (rest, status) = running.end();
    assert!(status.success(), "{rest}");
    assert_eq!(place.read_lines("run/metrics.jsonl").len(), 3);
}

/// A game for one agent whose program never answers a joint action; it leaves a file when it is asked.
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
    let place = training_run::place();
    place.write("silent.py", SILENT);
    let environment = format!("Process(command: [{:?}, \"silent.py\"])", python());
    place.write(
        "silent.ron",
        format!(
            "(environment: {environment}, team: Copies(\"model\"), max_new_tokens: 8, steps: 3, \
             algorithm: Magrpo(samples: 2), updates: (learning_rate: 1e-3), evaluation: (tasks: 1))"
        ),
    );
    for (signal, expected) in [(SIGINT, 130), (SIGTERM, 143)] {
        let run = format!("run-{expected}");
        let mut running = Running::start(&place, &["train", "silent.ron", "--run-dir", &run]);
        running.wait_for("writing the run to");
        // Before that, the first signal alone would end the run.
        while !place.path("asked").exists() {
            std::thread::yield_now();
        }
        running.send(SIGTERM);
        running.wait_for("SIGTERM: ending after the current step or batch");
        // `timeout` sends SIGTERM twice within a moment, which is one request.
        while running.child.try_wait().unwrap().is_none() {
            running.send(signal);
            std::thread::yield_now();
        }
        let (rest, status) = running.end();
        assert_eq!(status.code(), Some(expected), "{rest}");
        assert!(!rest.contains("Trained"), "{rest}");
        assert!(!place.path(&run).join("agents").exists(), "{rest}");
        fs::remove_file(place.path("asked")).unwrap();
    }
}

#[test]
fn an_interrupted_evaluation_is_done_anew() {
    let place = training_run::place();
    let arguments = |run| {
        // Ctrl-C is seen between the four tasks that are played together and the fifth.
        let evaluation = "evaluation=(tasks: 5, samples: 8)";
        let settings = ["--set", evaluation, "--set", "max_new_tokens=64"];
        let of_run = ["train", "recipe.ron", "--steps", "1", "--run-dir", run];
        [&of_run[..], &settings].concat()
    };
    let rest = interrupted_at(&place, "writing the run to", &arguments("run"));
    assert!(place.read_lines("run/evaluations.jsonl").is_empty());
    assert!(place.read_lines("run/metrics.jsonl").is_empty());
    assert!(rest.contains(" resume run\n"), "{rest}");

    place.succeed(&["resume", "run"]);
    place.succeed(&arguments("straight"));
    let whole = Left::read(&place, "straight");
    Left::read(&place, "run").check(&whole, "interrupted in its first evaluation");
    assert_eq!(place.read_lines("run/evaluations.jsonl").len(), 2);
}
