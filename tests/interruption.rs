//! Ctrl-C: the current step is finished, and the agents are saved.

#![cfg(unix)]

use std::{
    io::{BufRead, BufReader, Read},
    process::{Command, Stdio},
};

use crate::{command::Place, resume::Left, training_run};

/// Runs a command to its end, with Ctrl-C as soon as it has written a line that contains `text`; returns
/// what it wrote afterwards.
fn interrupted_at(place: &Place, text: &str, arguments: &[&str]) -> String {
    let mut running = place
        .command(arguments)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(running.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains(text) {
        line.clear();
        assert_ne!(
            log.read_line(&mut line).unwrap(),
            0,
            "the run ended before `{text}`"
        );
    }
    let id = running.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-INT", &id])
            .status()
            .unwrap()
            .success()
    );
    let mut rest = String::new();
    log.read_to_string(&mut rest).unwrap();
    assert!(running.wait().unwrap().success(), "{rest}");
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
