//! `polyphony eval`, `baseline` and `compare`, and evaluation during training.

use std::{fs, process::Stdio};

use serde_json::Value;

use crate::{
    command::{TestDir, json_lines, python},
    training_run::{self, untimed},
};

/// The printed metrics, without those that depend on clocks.
fn untimed_metrics(printed: &str) -> Value {
    let mut object = json_lines(printed).remove(0);
    let timing = object.as_object_mut().unwrap().shift_remove("timing");
    assert!(timing.unwrap()["secs"].as_f64().unwrap() > 0.0);
    object
}

#[test]
fn evaluation_during_training_does_not_affect_it() {
    let dir = training_run::test_dir();
    let train = |run: &str, every: &str| {
        let every = format!("evaluation.every={every}");
        dir.succeed(&[
            "train",
            "recipe.ron",
            "--run-dir",
            run,
            "--steps",
            "4",
            "--set",
            &every,
        ]);
    };
    train("without", "None");
    train("with", "1");
    let lines = |run: &str, file: &str| untimed(&dir, &format!("{run}/{file}"));
    assert_eq!(
        lines("with", "metrics.jsonl"),
        lines("without", "metrics.jsonl")
    );
    for file in ["rollouts.jsonl", "agents/summarizer/model.safetensors"] {
        let bytes = |run: &str| fs::read(dir.path(run).join(file)).unwrap();
        assert!(bytes("with") == bytes("without"), "{file} differs");
    }
    let evaluations = lines("with", "evaluations.jsonl");
    assert_eq!(evaluations.len(), 5);
    assert_eq!(
        [&evaluations[0], &evaluations[4]],
        [
            &lines("without", "evaluations.jsonl")[0],
            &lines("without", "evaluations.jsonl")[1]
        ]
    );
    // Each evaluation plays with the weights at its own step, so the returns change.
    let returns: Vec<Value> = dir
        .read_lines("with/evaluations.jsonl")
        .iter()
        .map(|line| line["return"]["mean"].clone())
        .collect();
    assert!(
        returns.windows(2).any(|pair| pair[0] != pair[1]),
        "{returns:?}"
    );
}

#[test]
fn evaluating_a_trained_team_repeats_the_last_evaluation_of_its_run() {
    let dir = training_run::test_dir();
    dir.succeed(&["train", "recipe.ron", "--run-dir", "run"]);
    let eval =
        |more: &[&str]| untimed_metrics(&dir.succeed(&[&["eval", "--team", "run"], more].concat()));
    let evaluation = eval(&[]);
    assert_eq!(evaluation, eval(&[]));
    let mut last = dir.read_lines("run/evaluations.jsonl").pop().unwrap();
    for key in ["timing", "episodes"] {
        last.as_object_mut().unwrap().shift_remove(key);
    }
    assert_eq!(evaluation, last);
    let other_seed = eval(&["--set", "seed=8"]);
    assert_ne!(evaluation["return"], other_seed["return"]);
    // The recipe of the training run is saved too.
    eval(&["--run-dir", "saved"]);
    assert_eq!(dir.read("saved/training.ron"), dir.read("run/recipe.ron"));
    assert!(
        dir.read("saved/recipe.ron")
            .contains("run/agents/elaborator")
    );
    // The saved evaluation is of the team at the end of `run`, so it equals the last evaluation of `run`.
    let rows = json_lines(&dir.succeed(&["compare", "run", "saved"]));
    assert_eq!(rows.len(), 2, "{rows:?}");
    assert_eq!(rows[1]["runs"], serde_json::json!(["run"]));
    dir.refuse(
        &["eval", "--team", "run", "--run-dir", "saved"],
        &["saved exists already"],
    );
}

/// Recipes, each with the changes that its environment needs in the test.
fn environments() -> Vec<(&'static str, Vec<String>)> {
    let python = format!("environment.sandbox.interpreter={:?}", python());
    let turns = "environment.settings.turns=2".to_owned();
    vec![
        ("tldr-smollm2", vec![]),
        ("arxiv-smollm2", vec![]),
        ("coop-smollm2", vec![python.clone()]),
        ("coop-smollm2", vec![python, turns]),
    ]
}

#[test]
fn every_baseline_plays_every_environment() {
    let dir = TestDir::new();
    polyphony_test_support::chat_model(&dir.path("model"), 8192);
    for (number, (recipe, changes)) in environments().into_iter().enumerate() {
        let mut results = Vec::new();
        let mut runs = vec!["compare".to_owned()];
        for name in ["single", "parallel", "pipeline", "discussion"] {
            let run = format!("{name}-{number}");
            let common = [
                "team=Copies(\"model\")",
                "max_new_tokens=6",
                "evaluation=(tasks: 2, samples: 2)",
            ];
            let changes = common.into_iter().chain(changes.iter().map(String::as_str));
            let changes = changes.flat_map(|change| ["--set", change]);
            let arguments: Vec<&str> = ["baseline", name, recipe, "--run-dir", &run]
                .into_iter()
                .chain(changes)
                .collect();
            results.push(untimed_metrics(&dir.succeed(&arguments)));
            runs.push(run);
        }
        let count = |result: &Value, name: &str| result[name].as_u64().unwrap();
        for result in &results {
            assert_eq!((count(result, "tasks"), count(result, "samples")), (2, 2));
            let is_solvable = recipe == "coop-smollm2";
            assert_eq!(
                result["pass_at"].get("2").is_some(),
                is_solvable,
                "{result}"
            );
        }
        let [single, parallel, pipeline, discussion] = results.try_into().unwrap();
        assert_eq!(single["roles"].as_object().unwrap().len(), 1);
        assert_eq!(parallel["roles"].as_object().unwrap().len(), 2);
        let prompt_tokens = |result| count(result, "prompt_tokens");
        // Answers of other agents make prompts longer, and drafts count as completion tokens.
        assert!(prompt_tokens(&parallel) < prompt_tokens(&pipeline));
        assert!(prompt_tokens(&pipeline) < prompt_tokens(&discussion));
        assert!(count(&discussion, "completion_tokens") > count(&parallel, "completion_tokens"));

        let compared =
            json_lines(&dir.succeed(&runs.iter().map(String::as_str).collect::<Vec<_>>()));
        let methods: Vec<&str> = compared
            .iter()
            .map(|row| row["method"].as_str().unwrap())
            .collect();
        assert_eq!(
            methods,
            ["single agent", "parallel", "pipeline", "discussion"]
        );
        for (row, result) in compared
            .iter()
            .zip([single, parallel, pipeline, discussion])
        {
            assert_eq!(row["return"], result["return"]);
            assert_eq!(
                row["completion_tokens"],
                count(&result, "completion_tokens") as f64 / 4.0
            );
        }
    }
}

#[test]
fn runs_that_differ_in_their_seeds_are_one_row() {
    let dir = training_run::test_dir();
    for seed in ["1", "2"] {
        let run = format!("run-{seed}");
        dir.succeed(&[
            "train",
            "recipe.ron",
            "--run-dir",
            &run,
            "--set",
            &format!("seed={seed}"),
        ]);
    }
    // This baseline equals the first evaluation of the run with the same seed.
    let changes = ["--set", "seed=1", "--run-dir", "parallel"];
    dir.succeed(&[&["baseline", "parallel", "recipe.ron"], &changes[..]].concat());
    let result = dir.run(&["compare", "run-1", "parallel", "run-2"]);
    let rows = json_lines(&result.stdout);
    let row = |index: usize, name: &str| rows[index][name].clone();
    assert_eq!(rows.len(), 2, "{}", result.stdout);
    assert_eq!([row(0, "method"), row(1, "method")], ["parallel", "MAGRPO"]);
    assert_eq!([row(0, "step"), row(1, "step")], [0, 2]);
    assert_eq!(row(0, "seeds"), serde_json::json!([1, 2]));
    let mean = |run: &str, line: usize| {
        let lines = dir.read_lines(&format!("{run}/evaluations.jsonl"));
        lines[line]["return"]["mean"].as_f64().unwrap()
    };
    let expected = (mean("run-1", 1) + mean("run-2", 1)) / 2.0;
    assert!((rows[1]["return"]["mean"].as_f64().unwrap() - expected).abs() < 1e-9);
    assert!(
        result
            .stderr
            .contains("MAGRPO                 2      2  2 × 2"),
        "{}",
        result.stderr
    );
    dir.refuse(
        &["compare", "model"],
        &["model is not the directory of a run"],
    );
}

#[test]
fn a_baseline_whose_prompts_do_not_fit_is_refused() {
    let dir = training_run::test_dir();
    polyphony_test_support::chat_model(&dir.path("model"), 300);
    let changes = [
        "held_out=File(path: \"posts.jsonl\", fields: {\"post\": \"body\"})",
        "max_new_tokens=8",
        "long_prompts=Skip",
    ];
    let baseline = |name: &'static str| {
        let changes = changes.iter().flat_map(|change| ["--set", change]);
        ["baseline", name, "recipe.ron"]
            .into_iter()
            .chain(changes)
            .collect::<Vec<_>>()
    };
    dir.succeed(&baseline("parallel"));
    dir.refuse(
        &baseline("pipeline"),
        &["all 4 episodes were skipped: with the answers of the other agents, the prompts are too long for the context"],
    );
}

#[test]
fn a_result_is_saved_even_if_nobody_reads_it() {
    let dir = training_run::test_dir();
    let mut command = dir.command(&["baseline", "parallel", "recipe.ron"]);
    let pipes = command.stdout(Stdio::piped()).stderr(Stdio::null());
    let mut running = pipes.spawn().unwrap();
    drop(running.stdout.take());
    running.wait().unwrap();
    // Without --run-dir, the result is saved in the directory that the help names.
    assert_eq!(
        dir.read_lines("runs/tldr-parallel-1/evaluations.jsonl")
            .len(),
        1
    );
}

#[test]
fn a_team_of_one_cannot_be_a_pipeline() {
    let dir = training_run::test_dir();
    let single_agent = [
        "--set",
        "environment=SingleAgent(Tldr)",
        "--set",
        "team=Copies(\"model\")",
    ];
    dir.refuse(
        &[&["baseline", "pipeline", "recipe.ron"], &single_agent[..]].concat(),
        &["for one agent", "give the recipe of the team"],
    );
}
