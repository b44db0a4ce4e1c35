//! Ctrl-C during training: the step is finished, and what has been learned is saved.

#![cfg(unix)]

use std::{
    io::{BufRead, BufReader, Read},
    process::{Command, Stdio},
};

use crate::training_run;

#[test]
fn an_interrupted_run_ends_in_order() {
    let place = training_run::place();
    let arguments = ["train", "recipe.ron", "--run-dir", "run", "--steps", "300"];
    let mut running = place
        .command(&arguments)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(running.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("step 1 of 300") {
        line.clear();
        assert_ne!(
            log.read_line(&mut line).unwrap(),
            0,
            "the run ended before its first step"
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

    let steps = place.read_lines("run/metrics.jsonl").len();
    assert!((1..300).contains(&steps));
    assert_eq!(place.read_lines("run/rollouts.jsonl").len(), 2 * steps);
    assert!(rest.contains(&format!("Trained {steps} steps.")), "{rest}");
    assert!(rest.contains(" resume run\n"), "{rest}");
    for role in ["summarizer", "elaborator"] {
        crate::tiny::load(&place.path("run/agents").join(role));
    }

    // It goes on with the step after the last one.
    let more = (steps + 2).to_string();
    place.succeed(&["resume", "run", "--steps", &more]);
    let numbers = place.read_lines("run/metrics.jsonl").into_iter();
    let numbers: Vec<u64> = numbers.map(|line| line["step"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (1..=steps as u64 + 2).collect::<Vec<_>>());
}
