//! A run that is stopped in any way resumes as if it had never stopped.

#![cfg(unix)]

mod damage;
mod kill;

use std::{fs, path::Path};

use serde_json::json;

use crate::{
    command::{TestDir, python},
    training_run::{check_documented, test_dir_with},
};

/// Steps of the whole run.
const STEPS: usize = 7;

/// A run with much state to save: a buffer that fills over two steps, a reference model, several checkpoints,
/// and a learning rate that follows a schedule. The texts of the tiny models earn nothing, so the models learn
/// only from the penalty for moving away from the reference.
const RECIPE: &str = r#"(
    seed: 5,
    environment: Tldr,
    train: File(path: "posts.jsonl", fields: {"post": "body"}),
    held_out: Embedded(TldrHeldOut),
    team: Each(["model", "model"]),
    max_new_tokens: 24,
    algorithm: Magrpo(
        samples: 3,
        objective: Clipped(low: 0.2, high: 0.2),
        kl: Reward(coefficient: 0.1),
        baseline: Zero,
    ),
    updates: (learning_rate: 1e-3, schedule: Linear(last: 0.0), buffer: 2, epochs: 2),
    steps: 7,
    evaluation: (tasks: 1, samples: 2, every: 2),
    checkpoints: (every: 3, keep: 2),
)"#;

pub(crate) fn test_dir() -> TestDir {
    test_dir_with(RECIPE)
}

/// The records of a run that must not depend on whether it was stopped.
#[derive(PartialEq)]
pub(crate) struct RunRecords {
    metrics: Vec<String>,
    rollouts: String,
    evaluations: Vec<String>,
    events: Vec<Vec<u8>>,
    weights: Vec<Vec<u8>>,
}

impl RunRecords {
    /// Reads the records of a run.
    #[track_caller]
    pub(crate) fn read(dir: &TestDir, run: &str) -> Self {
        let read = |name: &str| dir.read(&format!("{run}/{name}"));
        let without_timing = |mut line: serde_json::Value| {
            line.as_object_mut().unwrap().shift_remove("timing");
            line.to_string()
        };
        let agents = dir.path(&format!("{run}/agents"));
        let mut folders: Vec<_> = fs::read_dir(agents)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        folders.sort();
        let weights = |folder: &std::path::PathBuf| {
            let full = folder.join("model.safetensors");
            let adapters = folder.join("adapter_model.safetensors");
            fs::read(if full.exists() { full } else { adapters }).unwrap()
        };
        let lines = |name: &str| {
            let lines = dir.read_lines(&format!("{run}/{name}")).into_iter();
            lines.map(without_timing).collect()
        };
        Self {
            metrics: lines("metrics.jsonl"),
            rollouts: read("rollouts.jsonl"),
            evaluations: lines("evaluations.jsonl"),
            events: events(&dir.path(run)),
            weights: folders.iter().map(weights).collect(),
        }
    }

    /// Checks that nothing differs. A message names the difference without printing all numbers.
    #[track_caller]
    pub(crate) fn check(&self, whole: &Self, label: &str) {
        assert_eq!(self.metrics.len(), whole.metrics.len(), "{label}: steps");
        for (line, expected) in self.metrics.iter().zip(&whole.metrics) {
            assert_eq!(line, expected, "{label}");
        }
        assert!(self.rollouts == whole.rollouts, "{label}: rollouts");
        assert_eq!(self.evaluations, whole.evaluations, "{label}");
        assert!(self.events == whole.events, "{label}: events");
        assert!(self.weights == whole.weights, "{label}: weights");
    }
}

/// The records of a run's event file, without anything that depends on clocks. A record has a length with its
/// checksum, the time in nine bytes, the data, and another checksum. The time is left out, and the data is
/// cut before the first metric whose name begins with `timing.`.
fn events(run: &Path) -> Vec<Vec<u8>> {
    let file = run.join("tensorboard/events.out.tfevents.polyphony");
    let bytes = fs::read(file).unwrap();
    let mut rest = bytes.as_slice();
    let mut records = Vec::new();
    while !rest.is_empty() {
        let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
        let record = &rest[12 + 9..12 + length];
        let timing = record.windows(7).position(|window| window == b"timing.");
        records.push(record[..timing.unwrap_or(record.len())].to_vec());
        rest = &rest[12 + length + 4..];
    }
    records
}

/// The names of a run's checkpoints, sorted.
fn checkpoints(run: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(run.join("checkpoints")) else {
        return Vec::new();
    };
    let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name();
    let mut names: Vec<String> = entries
        .map(|entry| name(entry).to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// Checks that both agents learned in the last update, so that weights depend on what a checkpoint keeps.
#[track_caller]
fn check_learned(dir: &TestDir, run: &str) {
    let step = &dir.read_lines(&format!("{run}/metrics.jsonl"))[5];
    for role in ["summarizer", "elaborator"] {
        let norm = step[format!("{role}/grad_norm")].as_f64();
        assert!(norm > Some(1.0), "{role}: {step}");
    }
}

/// Trains the whole run without a stop.
fn train_whole(dir: &TestDir, more: &[&str]) -> RunRecords {
    dir.succeed(&[&["train", "recipe.ron", "--run-dir", "whole"], more].concat());
    let names = checkpoints(&dir.path("whole"));
    assert_eq!(names, ["step-000006", "step-000007"], "the newest two");
    check_learned(dir, "whole");
    RunRecords::read(dir, "whole")
}

#[test]
fn the_same_recipe_leaves_the_same_records_twice() {
    let dir = test_dir();
    let whole = train_whole(&dir, &[]);
    dir.succeed(&["train", "recipe.ron", "--run-dir", "again"]);
    RunRecords::read(&dir, "again").check(&whole, "again");
    assert_eq!(whole.metrics.len(), STEPS);
    let evaluations = dir.read_lines("whole/evaluations.jsonl");
    let steps: Vec<u64> = evaluations
        .iter()
        .map(|line| line["step"].as_u64().unwrap())
        .collect();
    assert_eq!(steps, [0, 2, 4, 6, 7]);
}

/// The tokens that the first step of a run sampled, with their log-probabilities.
fn first_step(dir: &TestDir, run: &str) -> Vec<(u64, f64)> {
    let nodes = dir.read_lines(&format!("{run}/rollouts.jsonl"));
    let first = nodes.iter().filter(|node| node["step"] == 1);
    let list = |value: &serde_json::Value| value.as_array().unwrap().clone();
    let responses = first
        .flat_map(|node| list(&node["agents"]))
        .flat_map(|agent| list(&agent["responses"]));
    let sampled = responses.flat_map(|response| {
        let tokens = list(&response["tokens"]).into_iter();
        tokens.zip(list(&response["logprobs"])).collect::<Vec<_>>()
    });
    sampled
        .map(|(token, logprob)| (token.as_u64().unwrap(), logprob.as_f64().unwrap()))
        .collect()
}

#[test]
fn the_number_of_threads_changes_log_probabilities_by_rounding_alone() {
    // Much more than rounding errors, much less than the effect of a mistake.
    const ROUNDING: f64 = 1e-4;
    let dir = test_dir();
    for threads in ["1", "2", "5"] {
        let train = ["train", "recipe.ron", "--run-dir", threads, "--steps", "2"];
        let mut command = dir.command(&train);
        let outcome = command.env("RAYON_NUM_THREADS", threads).output().unwrap();
        assert!(outcome.status.success(), "{outcome:?}");
        for line in dir.read_lines(&format!("{threads}/metrics.jsonl")) {
            for role in ["summarizer", "elaborator"] {
                if let Some(gap) = line[format!("{role}/logprob_gap")].as_f64() {
                    assert!(gap < ROUNDING, "{threads} threads: {line}");
                }
            }
        }
    }
    let reported = dir.read_lines("5/metrics.jsonl");
    assert!(
        reported[1]["summarizer/logprob_gap"].is_number(),
        "{reported:?}"
    );
    let with_one_thread = first_step(&dir, "1");
    for threads in ["2", "5"] {
        for (expected, sampled) in with_one_thread.iter().zip(first_step(&dir, threads)) {
            assert_eq!(expected.0, sampled.0, "{threads} threads sample the same");
            let difference = (expected.1 - sampled.1).abs();
            assert!(difference < ROUNDING, "{expected:?}, {sampled:?}");
        }
    }
}

#[test]
fn a_run_with_several_turns_and_programs_resumes() {
    let dir = test_dir();
    let interpreter = format!("environment.sandbox.interpreter={:?}", python());
    let train = [
        "train",
        "coop-smollm2",
        "--set",
        "team=Copies(\"model\")",
        "--set",
        "max_new_tokens=8",
        "--set",
        "evaluation.tasks=1",
        "--set",
        "environment.settings.turns=2",
        "--set",
        "algorithm.samples=2",
        "--set",
        "algorithm.joint_mode=Cross",
        "--set",
        "updates.buffer=5",
        "--set",
        "updates.schedule=Constant",
        "--set",
        &interpreter,
    ];
    dir.succeed(&[&train[..], &["--run-dir", "whole", "--steps", "3"]].concat());
    let whole = RunRecords::read(&dir, "whole");
    dir.succeed(&[&train[..], &["--run-dir", "run", "--steps", "1"]].concat());
    dir.succeed(&["resume", "run", "--steps", "3"]);
    RunRecords::read(&dir, "run").check(&whole, "two turns");
    assert!(
        whole.metrics[0].contains("turn_2/return"),
        "{}",
        whole.metrics[0]
    );
    let explained = check_documented(&dir, "run");
    assert!(explained.contains_key("<role>/turn_<turn>/entropy"));
    // In each step: a root with four joint actions, each of which leads to a node of the second turn.
    let rollouts = dir.read_lines("run/rollouts.jsonl");
    assert_eq!(rollouts.len(), 3 * 5);
    assert_eq!(rollouts[0]["path"], json!([]));
    assert_eq!(rollouts[4]["path"], json!([3]));
}

#[test]
fn files_that_a_user_adds_to_a_run_stay() {
    let dir = test_dir();
    dir.succeed(&["train", "recipe.ron", "--run-dir", "run", "--steps", "1"]);
    let user_files = ["run/agents/.git/HEAD", "run/checkpoints/.git/HEAD"];
    for file in user_files {
        dir.write(file, "ref: refs/heads/main");
    }
    dir.succeed(&["resume", "run", "--steps", "2"]);
    for file in user_files {
        assert!(dir.path(file).exists(), "{file}");
    }
}

#[test]
fn a_checkpoint_may_have_more_or_fewer_keys() {
    let dir = test_dir();
    dir.succeed(&["train", "recipe.ron", "--run-dir", "run", "--steps", "1"]);
    let file = "run/checkpoints/step-000001/state.ron";
    let mut state = dir.read(file);
    for (from, to) in [
        ("(format:3,", "(format:3,news:\"more\","),
        ("settings:{", "settings:{\"weather\":\"fine\","),
        ("position:(", "position:(mood:1,"),
        ("lengths:(", "lengths:(videos:9,"),
        ("\"seed\":\"5\",", ""),
    ] {
        assert!(state.contains(from), "{state} lacks {from}");
        state = state.replacen(from, to, 1);
    }
    dir.write(file, state);
    dir.succeed(&["resume", "run", "--steps", "2"]);
    assert_eq!(dir.read_lines("run/metrics.jsonl").len(), 2);
}

/// On a processor without the instructions `Auto` is `F32`, which the other tests cover.
#[test]
fn auto_is_recorded_and_a_run_in_bfloat16_is_resumed_exactly() {
    let dir = test_dir();
    train_with(&dir, "precision=Auto");
    let recipe = dir.read("run/recipe.ron");
    #[cfg(target_arch = "x86_64")]
    let has_bf16 = std::arch::is_x86_feature_detected!("avx512bf16");
    #[cfg(not(target_arch = "x86_64"))]
    let has_bf16 = false;
    let chosen = if has_bf16 {
        "precision: Bf16,"
    } else {
        "precision: F32,"
    };
    assert!(recipe.contains(chosen), "{recipe}");
    check_resumed_from_step_3(&dir);
}

/// The updates after step 3 begin with the moments in its checkpoint.
#[test]
fn moments_of_8_bits_are_restored_exactly() {
    let dir = test_dir();
    train_with(&dir, "updates.moments=Int8");
    check_resumed_from_step_3(&dir);
}

/// Trains with a changed setting and keeps all checkpoints.
fn train_with(dir: &TestDir, setting: &str) {
    let settings = [setting, "checkpoints.keep=9"].map(|change| ["--set", change]);
    let train = ["train", "recipe.ron", "--run-dir", "run"];
    dir.succeed(&[&train[..], settings.as_flattened()].concat());
    check_learned(dir, "run");
}

/// Resumes from an earlier step, and compares the result with the run as it was.
fn check_resumed_from_step_3(dir: &TestDir) {
    let whole = RunRecords::read(dir, "run");
    dir.succeed(&["resume", "run", "--from", "step-000003"]);
    RunRecords::read(dir, "run").check(&whole, "from step 3");
}

#[test]
fn moments_of_another_format_are_refused() {
    let dir = test_dir();
    let int8 = ["--set", "updates.moments=Int8"];
    let train = ["train", "recipe.ron", "--run-dir", "run", "--steps", "2"];
    dir.succeed(&[&train[..], &int8].concat());
    let f32 = [
        "resume",
        "run",
        "--steps",
        "3",
        "--set",
        "updates.moments=F32",
    ];
    dir.refuse(
        &f32,
        &["`updates.moments` is Int8 in this run", "cannot change"],
    );

    let recipe = dir.read("run/recipe.ron");
    dir.write(
        "run/recipe.ron",
        recipe.replace("moments: Int8", "moments: F32"),
    );
    let resume = ["resume", "run", "--steps", "3"];
    let expected = "`updates.moments` was Int8, and is F32 now";
    dir.refuse(&resume, &[expected, "cannot be used"]);

    // A checkpoint does not have the setting if an older version of the program wrote it.
    let file = "run/checkpoints/step-000002/state.ron";
    let state = dir.read(file);
    let without = state.replacen("\"updates.moments\":\"Int8\",", "", 1);
    assert!(without.len() < state.len(), "{state:.2000}");
    dir.write(file, without);
    let expected = "were saved as Int8, but `moments` is F32: set it to Int8";
    dir.refuse(&resume, &[expected, "cannot be used"]);
    dir.write("run/recipe.ron", recipe);
    dir.succeed(&resume);
}

#[test]
fn an_impossible_number_of_steps_is_refused() {
    let dir = test_dir();
    dir.succeed(&["train", "recipe.ron", "--run-dir", "run", "--steps", "1"]);
    dir.refuse(
        &["resume", "run", "--steps", "0"],
        &["steps=0", "`steps` is 0, but must be from 1"],
    );
    dir.succeed(&["resume", "run", "--steps", "4"]);
    let recipe = dir.read("run/recipe.ron");
    dir.refuse(
        &["resume", "run", "--from", "step-000003", "--steps", "2"],
        &["3 steps of the run in run are done", "--from"],
    );
    assert_eq!(dir.read("run/recipe.ron"), recipe);
    assert_eq!(dir.read_lines("run/metrics.jsonl").len(), 4);
}

#[test]
fn changes_by_more_steps_are_reported() {
    let dir = test_dir();
    let linear = "updates.schedule=Linear(last: 0.0)";
    let train = ["train", "recipe.ron", "--run-dir", "run", "--steps", "1"];
    dir.succeed(&[&train[..], &["--set", linear]].concat());
    let resumed = dir.run(&["resume", "run", "--steps", "2"]);
    assert!(resumed.succeeded, "{}", resumed.stderr);
    let expected = "until here it was planned for 1 steps, from here on for 2";
    assert!(resumed.stderr.contains(expected), "{}", resumed.stderr);
    let expected = "the evaluation after step 1 is dropped";
    assert!(resumed.stderr.contains(expected), "{}", resumed.stderr);
}
