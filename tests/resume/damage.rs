//! Checkpoints that cannot be written or cannot be used.

use std::process::Command;

use super::*;

/// The command with a limit on the size of files, which simulates a full disk.
fn with_small_files(command: &Command, kib: usize) -> Command {
    // bash counts in units of 1,024 bytes. SIGXFSZ is ignored, so that writing fails instead.
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
    let dir = test_dir();
    let whole = train_whole(&dir, &[]);
    dir.succeed(&["train", "recipe.ron", "--run-dir", "run", "--steps", "3"]);
    let before = checkpoints(&dir.path("run"));
    assert_eq!(before, ["step-000002", "step-000003"]);
    // Metrics are below this limit, and tensors above it.
    let resume = dir.command(&["resume", "run", "--steps", "7"]);
    let failed = with_small_files(&resume, 256).output().unwrap();
    let log = String::from_utf8(failed.stderr).unwrap();
    assert!(!failed.status.success(), "{log}");
    for part in [
        "writing the checkpoint run/checkpoints/step-000004",
        "make room, then resume the run",
        "File too large",
    ] {
        assert!(log.contains(part), "{log}\nlacks: {part}");
    }
    assert_eq!(
        checkpoints(&dir.path("run")),
        before,
        "no part of the new checkpoint remains"
    );
    dir.succeed(&["resume", "run"]);
    // The first three steps had the learning rates of a run of three steps, so the weights are not those of
    // `whole`. The twin is stopped and resumed in the same way, but without a full disk.
    let records = RunRecords::read(&dir, "run");
    assert_eq!(records.metrics.len(), whole.metrics.len());
    dir.succeed(&["train", "recipe.ron", "--run-dir", "twin", "--steps", "3"]);
    dir.succeed(&["resume", "twin", "--steps", "7"]);
    records.check(&RunRecords::read(&dir, "twin"), "after a full disk");
}

/// Changes a file of the newest checkpoint and checks that `resume` refuses it.
#[track_caller]
fn refused(dir: &TestDir, file: &str, change: impl FnOnce(Vec<u8>) -> Vec<u8>, expected: &[&str]) {
    let file = format!("checkpoints/step-000007/{file}");
    refused_of_run(dir, &file, change, expected);
}

/// Changes a file of the run and checks that `resume` refuses it and offers a way out.
#[track_caller]
fn refused_of_run(
    dir: &TestDir,
    file: &str,
    change: impl FnOnce(Vec<u8>) -> Vec<u8>,
    expected: &[&str],
) {
    let path = dir.path("run").join(file);
    let original = fs::read(&path).unwrap();
    fs::write(&path, change(original.clone())).unwrap();
    let way_out = "use the one before it: resume with `--from step-000006`";
    let problem = "the checkpoint run/checkpoints/step-000007 cannot be used";
    let resume = ["resume", "run", "--steps", "9"];
    dir.refuse(&resume, &[&[problem, way_out], expected].concat());
    fs::write(&path, original).unwrap();
}

/// Replaces a file of the run with a link, and checks that the link is not followed.
#[cfg(unix)]
#[track_caller]
fn refused_elsewhere(dir: &TestDir, file: &str) {
    let (path, elsewhere) = (dir.path("run").join(file), dir.path("elsewhere"));
    fs::rename(&path, &elsewhere).unwrap();
    let before = fs::read(&elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
    let resume = ["resume", "run", "--steps", "9"];
    dir.refuse(&resume, &[file, "a link: replace it with a copy"]);
    assert_eq!(fs::read(&elsewhere).unwrap(), before);
    fs::rename(&elsewhere, &path).unwrap();
}

#[test]
fn a_checkpoint_that_cannot_be_used_is_named_and_another_offered() {
    let dir = test_dir();
    let whole = train_whole(&dir, &[]);
    fs::rename(dir.path("whole"), dir.path("run")).unwrap();
    let half = |bytes: Vec<u8>| bytes[..bytes.len() / 2].to_vec();
    for file in ["agent-summarizer.safetensors", "algorithm.safetensors"] {
        refused(&dir, file, half, &[file]);
    }
    refused(&dir, "state.ron", half, &["state.ron is damaged"]);
    #[cfg(unix)]
    for file in ["checkpoints/step-000007/state.ron", "metrics.jsonl"] {
        refused_elsewhere(&dir, file);
    }
    let newer = |bytes: Vec<u8>| {
        let text = String::from_utf8(bytes).unwrap();
        assert!(text.starts_with("(format:3,"), "{text:.40}");
        text.replacen("(format:3,", "(format:5,news:\"more\",", 1)
            .into_bytes()
    };
    let older = |bytes: Vec<u8>| {
        let text = String::from_utf8(bytes).unwrap();
        text.replacen("(format:3,", "(format:2,", 1).into_bytes()
    };
    let expected = "it was written by an older polyphony (format 2; this one reads 3 and 4)";
    refused(&dir, "state.ron", older, &[expected]);
    let expected = "it was written by a newer polyphony (format 5; this one reads 3 and 4)";
    refused(&dir, "state.ron", newer, &[expected]);

    // A checkpoint contains the settings of its recipe, so a checkpoint of another run is recognized.
    let recipe = dir.read("run/recipe.ron");
    dir.write("run/recipe.ron", recipe.replace("seed: 5", "seed: 6"));
    let expected = "it was made with a different recipe than the run's recipe.ron";
    dir.refuse(&["resume", "run", "--steps", "9"], &[expected]);
    dir.write("run/recipe.ron", recipe);

    // The checkpoint that the message offers leads to the same end.
    dir.succeed(&["resume", "run", "--from", "step-000006"]);
    RunRecords::read(&dir, "run").check(&whole, "from step 6");
    dir.succeed(&["resume", "run", "--from", "start"]);
    RunRecords::read(&dir, "run").check(&whole, "from the start");
}

#[test]
fn edited_records_are_refused_before_anything_is_trained() {
    let dir = test_dir();
    let whole = train_whole(&dir, &[]);
    fs::rename(dir.path("whole"), dir.path("run")).unwrap();
    // The records are checked before a model is read, so the model may be missing.
    fs::rename(dir.path("model"), dir.path("elsewhere")).unwrap();
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
        refused_of_run(&dir, file, edit, &[&format!("run/{file}"), expected]);
    }
    let short = |bytes: Vec<u8>| bytes[..bytes.len() / 2].to_vec();
    for file in [
        "metrics.jsonl",
        "rollouts.jsonl",
        "evaluations.jsonl",
        events,
    ] {
        refused_of_run(&dir, file, short, &[&format!("run/{file}"), "but had"]);
    }
    // A missing file is not created again as an empty one.
    for file in ["rollouts.jsonl", "evaluations.jsonl", events] {
        let path = dir.path("run").join(file);
        fs::rename(&path, dir.path("lost")).unwrap();
        let problem =
            format!("run/{file} has changed since the checkpoint was made: it is missing");
        let way_out = "resume with `--from step-000006`";
        dir.refuse(&["resume", "run", "--steps", "9"], &[&problem, way_out]);
        assert!(!path.exists(), "{file}");
        fs::rename(dir.path("lost"), path).unwrap();
    }

    // An earlier checkpoint does not depend on the end of a file.
    fs::rename(dir.path("elsewhere"), dir.path("model")).unwrap();
    let metrics = dir.read("run/metrics.jsonl");
    dir.write(
        "run/metrics.jsonl",
        metrics.replacen("{\"step\":7", "{\"step\": 7", 1),
    );
    dir.succeed(&["resume", "run", "--from", "step-000006"]);
    RunRecords::read(&dir, "run").check(&whole, "from step 6");
}

#[test]
fn a_run_that_cannot_be_resumed_is_explained() {
    let dir = test_dir();
    let short = ["train", "recipe.ron", "--run-dir", "run", "--steps", "1"];
    dir.succeed(&short);
    dir.refuse(
        &["resume", "run"],
        &["the run in run is complete: 1 steps are done. --steps counts the steps of the whole run"],
    );
    dir.refuse(
        &["resume", "run", "--from", "step-7"],
        &["run has no checkpoint `step-7`; `--from` accepts: step-000001, start"],
    );
    // An empty name, as from an unset shell variable.
    dir.refuse(
        &["resume", "run", "--from", ""],
        &["run has no checkpoint ``; `--from` accepts: step-000001, start"],
    );
    dir.refuse(
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
    dir.succeed(&baseline);
    dir.refuse(
        &["resume", "parallel"],
        &["parallel is not a training run, but a baseline or a saved evaluation"],
    );
    dir.refuse(
        &["eval", "--team", "parallel"],
        &["parallel is not a training run", "no agents of its own"],
    );
    // A user may remove the checkpoints to free disk space.
    fs::rename(dir.path("run/checkpoints"), dir.path("elsewhere")).unwrap();
    dir.refuse(
        &["resume", "run", "--steps", "3"],
        &[
            "run has agents, but no checkpoint to resume from",
            "--from start",
        ],
    );
    fs::rename(dir.path("elsewhere"), dir.path("run/checkpoints")).unwrap();

    let lock_file = fs::File::open(dir.path("run/metrics.jsonl")).unwrap();
    lock_file.lock().unwrap();
    let more = ["resume", "run", "--steps", "2"];
    dir.refuse(
        &more,
        &["run/metrics.jsonl", "another process is writing it"],
    );
    drop(lock_file);

    let metrics = dir.read("run/metrics.jsonl");
    dir.write("run/metrics.jsonl", &metrics[..metrics.len() - 1]);
    let expected = "run/metrics.jsonl has changed since the checkpoint was made: it has";
    dir.refuse(&more, &[expected, "but had", "`--from start`"]);
    dir.write("run/metrics.jsonl", metrics);
    dir.succeed(&more);
    assert_eq!(dir.read_lines("run/metrics.jsonl").len(), 2);
}
