//! Checkpoints that cannot be written or cannot be used.

use std::process::Command;

use super::*;

/// The command with a limit on the size of files, as a disk that is full.
fn with_small_files(command: &Command, kib: usize) -> Command {
    // bash counts in units of 1,024 bytes. The signal is ignored, so that writing fails instead.
    let mut limited = Command::new("/bin/bash");
    limited
        .args(["-c", "trap '' XFSZ; ulimit -f \"$0\"; exec \"$@\""])
        .arg(kib.to_string())
        .arg(command.get_program())
        .args(command.get_args())
        .current_dir(command.get_current_dir().unwrap());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => limited.env(name, value),
            None => limited.env_remove(name),
        };
    }
    limited
}

#[test]
fn a_full_disk_costs_no_more_than_the_steps_since_the_last_checkpoint() {
    let place = place();
    let whole = train_whole(&place, &[]);
    place.succeed(&["train", "recipe.ron", "--run-dir", "run", "--steps", "3"]);
    let before = checkpoints(&place.path("run"));
    assert_eq!(before, ["step-000002", "step-000003"]);
    // Metrics fit, tensors do not.
    let resume = place.command(&["resume", "run", "--steps", "7"]);
    let failed = with_small_files(&resume, 256).output().unwrap();
    let log = String::from_utf8(failed.stderr).unwrap();
    assert!(!failed.status.success(), "{log}");
    for part in [
        "writing the checkpoint run/checkpoints/step-000004",
        "make room there, then resume the run",
        "File too large",
    ] {
        assert!(log.contains(part), "{log}\nlacks: {part}");
    }
    assert_eq!(
        checkpoints(&place.path("run")),
        before,
        "no part of it is left"
    );
    place.succeed(&["resume", "run"]);
    // Its first three steps had a learning rate of a run of three.
    let left = Left::read(&place, "run");
    assert_eq!(left.metrics.len(), whole.metrics.len());
    place.succeed(&["train", "recipe.ron", "--run-dir", "twin", "--steps", "3"]);
    place.succeed(&["resume", "twin", "--steps", "7"]);
    left.check(&Left::read(&place, "twin"), "after a full disk");
}

/// Changes a file of the newest checkpoint and sees the run refuse it.
#[track_caller]
fn refused(place: &Place, file: &str, change: impl FnOnce(Vec<u8>) -> Vec<u8>, expected: &[&str]) {
    let file = format!("checkpoints/step-000007/{file}");
    refused_of_run(place, &file, change, expected);
}

/// Changes a file of the run and sees it refused, with the way out.
#[track_caller]
fn refused_of_run(
    place: &Place,
    file: &str,
    change: impl FnOnce(Vec<u8>) -> Vec<u8>,
    expected: &[&str],
) {
    let path = place.path("run").join(file);
    let good = fs::read(&path).unwrap();
    fs::write(&path, change(good.clone())).unwrap();
    let offered = "use the one before it: resume with `--from step-000006`";
    let named = "the checkpoint run/checkpoints/step-000007 cannot be used";
    let more = ["resume", "run", "--steps", "9"];
    place.refuse(&more, &[&[named, offered], expected].concat());
    fs::write(&path, good).unwrap();
}

#[test]
fn a_checkpoint_that_cannot_be_used_is_named_and_another_offered() {
    let place = place();
    let whole = train_whole(&place, &[]);
    fs::rename(place.path("whole"), place.path("run")).unwrap();
    let half = |bytes: Vec<u8>| bytes[..bytes.len() / 2].to_vec();
    for file in ["agent-summarizer.safetensors", "algorithm.safetensors"] {
        refused(&place, file, half, &[file]);
    }
    refused(&place, "state.ron", half, &["state.ron is damaged"]);
    let newer = |bytes: Vec<u8>| {
        let text = String::from_utf8(bytes).unwrap();
        assert!(text.starts_with("(format:3,"), "{text:.40}");
        text.replacen("(format:3,", "(format:4,news:\"more\",", 1)
            .into_bytes()
    };
    let older = |bytes: Vec<u8>| {
        let text = String::from_utf8(bytes).unwrap();
        text.replacen("(format:3,", "(format:2,", 1).into_bytes()
    };
    let expected = "it was written by an older polyphony (format 2; this one reads 3)";
    refused(&place, "state.ron", older, &[expected]);
    let expected = "it was written by a newer polyphony (format 4; this one reads 3)";
    refused(&place, "state.ron", newer, &[expected]);

    // Of another run: the recipe is part of what a checkpoint is.
    let recipe = place.read("run/recipe.ron");
    place.write("run/recipe.ron", recipe.replace("seed: 5", "seed: 6"));
    let foreign = "it was made with a different recipe than the run's recipe.ron";
    place.refuse(&["resume", "run", "--steps", "9"], &[foreign]);
    place.write("run/recipe.ron", recipe);

    // The one that is offered does continue, to the same end.
    place.succeed(&["resume", "run", "--from", "step-000006"]);
    Left::read(&place, "run").check(&whole, "from step 6");
    place.succeed(&["resume", "run", "--from", "start"]);
    Left::read(&place, "run").check(&whole, "from the start");
}

#[test]
fn records_that_somebody_has_edited_are_refused_before_anything_is_trained() {
    let place = place();
    let whole = train_whole(&place, &[]);
    fs::rename(place.path("whole"), place.path("run")).unwrap();
    // Not even a model is read before.
    fs::rename(place.path("model"), place.path("elsewhere")).unwrap();
    let events = "tensorboard/events.out.tfevents.polyphony";
    for (file, from, to, expected) in [
        (
            "metrics.jsonl",
            "{\"step\":1",
            "{\"step\": 1",
            "no line ends after its first",
        ),
        (
            "metrics.jsonl",
            "{\"step\":7",
            "{\"step\":6",
            "line 7 is of step 6, but must be of step 7",
        ),
        (
            "metrics.jsonl",
            "{\"step\":2",
            "{\"step\"=2",
            "run/metrics.jsonl, line 2",
        ),
        (
            "rollouts.jsonl",
            "{\"step\":1",
            "{\"step\": 1",
            "no line ends after its first",
        ),
        (
            "rollouts.jsonl",
            "{\"step\":7",
            "{\"step\"=7",
            "run/rollouts.jsonl, line 7",
        ),
        (
            "evaluations.jsonl",
            "\"return\":",
            "\"return\"=",
            "run/evaluations.jsonl, line 1",
        ),
        (
            "evaluations.jsonl",
            "{\"step\":0",
            "{\"step\":8",
            "line 1 is of step 8, but must be of a step from 0 to 7",
        ),
        (
            events,
            "return",
            "RETURN",
            "a record in it is damaged or cut off",
        ),
        (
            events,
            "return",
            "returns",
            "a record in it is damaged or cut off",
        ),
    ] {
        let edit = |bytes: Vec<u8>| {
            let at = bytes
                .windows(from.len())
                .position(|part| part == from.as_bytes());
            let at = at.unwrap_or_else(|| panic!("{file} has no {from}"));
            [&bytes[..at], to.as_bytes(), &bytes[at + from.len()..]].concat()
        };
        refused_of_run(&place, file, edit, &[&format!("run/{file}"), expected]);
    }
    let short = |bytes: Vec<u8>| bytes[..bytes.len() / 2].to_vec();
    for file in [
        "metrics.jsonl",
        "rollouts.jsonl",
        "evaluations.jsonl",
        events,
    ] {
        refused_of_run(&place, file, short, &[&format!("run/{file}"), "but had"]);
    }
    // A lost file is not made again, empty.
    for file in ["rollouts.jsonl", "evaluations.jsonl", events] {
        let path = place.path("run").join(file);
        fs::rename(&path, place.path("lost")).unwrap();
        let named = format!("run/{file} has changed since the checkpoint was made: it is missing");
        let offered = "resume with `--from step-000006`";
        place.refuse(&["resume", "run", "--steps", "9"], &[&named, offered]);
        assert!(!path.exists(), "{file}");
        fs::rename(place.path("lost"), path).unwrap();
    }

    // An earlier checkpoint does not count on the end of a file.
    fs::rename(place.path("elsewhere"), place.path("model")).unwrap();
    let metrics = place.read("run/metrics.jsonl");
    place.write(
        "run/metrics.jsonl",
        metrics.replacen("{\"step\":7", "{\"step\": 7", 1),
    );
    place.succeed(&["resume", "run", "--from", "step-000006"]);
    Left::read(&place, "run").check(&whole, "from step 6");
}

#[test]
fn what_cannot_be_resumed_is_explained() {
    let place = place();
    let short = ["train", "recipe.ron", "--run-dir", "run", "--steps", "1"];
    place.succeed(&short);
    place.refuse(
        &["resume", "run"],
        &["the run in run is complete: 1 steps are done. --steps counts the steps of the whole run"],
    );
    place.refuse(
        &["resume", "run", "--from", "step-7"],
        &["run has no checkpoint `step-7`, but: step-000001, start"],
    );
    // As of a variable that is not set.
    place.refuse(
        &["resume", "run", "--from", ""],
        &["run has no checkpoint ``, but: step-000001, start"],
    );
    place.refuse(
        &["resume", "model"],
        &["model is not the directory of a run: it has no recipe.ron"],
    );
    let baseline = [
        "baseline",
        "parallel",
        "recipe.ron",
        "--run-dir",
        "parallel",
    ];
    place.succeed(&baseline);
    place.refuse(
        &["resume", "parallel"],
        &["parallel is not a training run, but a baseline or a saved evaluation"],
    );
    place.refuse(
        &["eval", "--team", "parallel"],
        &["parallel is not a training run", "no agents of its own"],
    );
    // Making room this way keeps everything else.
    fs::rename(place.path("run/checkpoints"), place.path("elsewhere")).unwrap();
    place.refuse(
        &["resume", "run", "--steps", "3"],
        &[
            "run has agents, but no checkpoint to resume from",
            "--from start",
        ],
    );
    fs::rename(place.path("elsewhere"), place.path("run/checkpoints")).unwrap();

    let held = fs::File::open(place.path("run/metrics.jsonl")).unwrap();
    held.lock().unwrap();
    let more = ["resume", "run", "--steps", "2"];
    place.refuse(
        &more,
        &["run/metrics.jsonl", "another process is writing it"],
    );
    drop(held);

    let metrics = place.read("run/metrics.jsonl");
    place.write("run/metrics.jsonl", &metrics[..metrics.len() - 1]);
    let expected = "run/metrics.jsonl has changed since the checkpoint was made: it has";
    place.refuse(&more, &[expected, "but had", "`--from start`"]);
    place.write("run/metrics.jsonl", metrics);
    place.succeed(&more);
    assert_eq!(place.read_lines("run/metrics.jsonl").len(), 2);
}
