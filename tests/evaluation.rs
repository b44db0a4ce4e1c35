//! `polyphony eval`, `baseline` and `compare`, and evaluation during training.

use std::{fs, process::Stdio};

use serde_json::Value;

use crate::{
    command::{Place, json_lines, python},
    training_run::{self, untimed},
};

/// Figures without what depends on clocks.
fn figures(printed: &str) -> Value {
    let mut object = json_lines(printed).remove(0);
    let timing = object.as_object_mut().unwrap().shift_remove("timing");
    assert!(timing.unwrap()["secs"].as_f64().unwrap() > 0.0);
    object
}

#[test]
fn evaluation_during_training_changes_nothing_of_it() {
    let place = training_run::place();
    let train = |run: &str, every: &str| {
        let every = format!("evaluation.every={every}");
        place.succeed(&[
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
    let lines = |run: &str, file: &str| untimed(&place, &format!("{run}/{file}"));
    assert_eq!(
        lines("with", "metrics.jsonl"),
        lines("without", "metrics.jsonl")
    );
    for file in ["rollouts.jsonl", "agents/summarizer/model.safetensors"] {
        let bytes = |run: &str| fs::read(place.path(run).join(file)).unwrap();
        assert!(bytes("with") == bytes("without"), "{file} differs");
    }
    let judged = lines("with", "evaluations.jsonl");
    assert_eq!(judged.len(), 5);
    assert_eq!(
        [&judged[0], &judged[4]],
        [
            &lines("without", "evaluations.jsonl")[0],
            &lines("without", "evaluations.jsonl")[1]
        ]
    );
    // Each evaluation is of the team at that step.
    let returns: Vec<Value> = place
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
fn a_trained_team_is_judged_as_at_the_end_of_its_training() {
    let place = training_run::place();
    place.succeed(&["train", "recipe.ron", "--run-dir", "run"]);
    let eval =
        |more: &[&str]| figures(&place.succeed(&[&["eval", "--team", "run"], more].concat()));
    let own = eval(&[]);
    assert_eq!(own, eval(&[]));
    let mut last = place.read_lines("run/evaluations.jsonl").pop().unwrap();
    for left_out in ["timing", "episodes"] {
        last.as_object_mut().unwrap().shift_remove(left_out);
    }
    assert_eq!(own, last);
    let other = eval(&["--set", "seed=8"]);
    assert_ne!(own["return"], other["return"]);
    // The recipe of its training is kept too.
    eval(&["--run-dir", "kept"]);
    assert_eq!(
        place.read("kept/training.ron"),
        place.read("run/recipe.ron")
    );
    assert!(
        place
            .read("kept/recipe.ron")
            .contains("run/agents/elaborator")
    );
    // It is the team at the end of that run, and so the run's own last evaluation.
    let rows = json_lines(&place.succeed(&["compare", "run", "kept"]));
    assert_eq!(rows.len(), 2, "{rows:?}");
    assert_eq!(rows[1]["runs"], serde_json::json!(["run"]));
    place.refuse(
        &["eval", "--team", "run", "--run-dir", "kept"],
        &["kept exists already"],
    );
}

/// What makes a baseline short, with an environment's own changes.
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
    let place = Place::new();
    polyphony_test_support::chat_model(&place.path("model"), 8192);
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
            results.push(figures(&place.succeed(&arguments)));
            runs.push(run);
        }
        let count = |result: &Value, name: &str| result[name].as_u64().unwrap();
        for result in &results {
            assert_eq!((count(result, "tasks"), count(result, "samples")), (2, 2));
            let solvable = recipe == "coop-smollm2";
            assert_eq!(result["pass_at"].get("2").is_some(), solvable, "{result}");
        }
        let [single, parallel, pipeline, discussion] = results.try_into().unwrap();
        assert_eq!(single["roles"].as_object().unwrap().len(), 1);
        assert_eq!(parallel["roles"].as_object().unwrap().len(), 2);
        let read = |result| count(result, "prompt_tokens");
        // What agents read of one another makes their prompts longer; drafts are sampled too.
        assert!(read(&parallel) < read(&pipeline) && read(&pipeline) < read(&discussion));
        assert!(count(&discussion, "completion_tokens") > count(&parallel, "completion_tokens"));

        let compared =
            json_lines(&place.succeed(&runs.iter().map(String::as_str).collect::<Vec<_>>()));
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
    let place = training_run::place();
    for seed in ["1", "2"] {
        let run = format!("run-{seed}");
        place.succeed(&[
            "train",
            "recipe.ron",
            "--run-dir",
            &run,
            "--set",
            &format!("seed={seed}"),
        ]);
    }
    // The same as what a run of that seed begins with.
    let changes = ["--set", "seed=1", "--run-dir", "parallel"];
    place.succeed(&[&["baseline", "parallel", "recipe.ron"], &changes[..]].concat());
    let ended = place.run(&["compare", "run-1", "parallel", "run-2"]);
    let rows = json_lines(&ended.stdout);
    let row = |index: usize, name: &str| rows[index][name].clone();
    assert_eq!(rows.len(), 2, "{}", ended.stdout);
    assert_eq!([row(0, "method"), row(1, "method")], ["parallel", "MAGRPO"]);
    assert_eq!([row(0, "step"), row(1, "step")], [0, 2]);
    assert_eq!(row(0, "seeds"), serde_json::json!([1, 2]));
    let mean = |run: &str, line: usize| {
        let lines = place.read_lines(&format!("{run}/evaluations.jsonl"));
        lines[line]["return"]["mean"].as_f64().unwrap()
    };
    let expected = (mean("run-1", 1) + mean("run-2", 1)) / 2.0;
    assert!((rows[1]["return"]["mean"].as_f64().unwrap() - expected).abs() < 1e-9);
    assert!(
        ended
            .stderr
            .contains("MAGRPO                 2      2  2 × 2"),
        "{}",
        ended.stderr
    );
    place.refuse(
        &["compare", "model"],
        &["model is not the directory of a run"],
    );
}

#[test]
fn a_baseline_of_which_nothing_fits_is_refused() {
    let place = training_run::place();
    polyphony_test_support::chat_model(&place.path("model"), 300);
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
    place.succeed(&baseline("parallel"));
    place.refuse(
        &baseline("pipeline"),
        &["none of 4 episodes fits into the context with the answers that agents read from one another"],
    );
}

#[test]
fn a_result_is_kept_even_if_nobody_reads_it() {
    let place = training_run::place();
    let mut command = place.command(&["baseline", "parallel", "recipe.ron"]);
    let pipes = command.stdout(Stdio::piped()).stderr(Stdio::null());
    let mut running = pipes.spawn().unwrap();
    drop(running.stdout.take());
    running.wait().unwrap();
    // Without --run-dir it is where the help says.
    assert_eq!(
        place
            .read_lines("runs/tldr-parallel-1/evaluations.jsonl")
            .len(),
        1
    );
}

#[test]
fn a_team_of_one_cannot_be_a_pipeline() {
    let place = training_run::place();
    let solo = [
        "--set",
        "environment=SingleAgent(Tldr)",
        "--set",
        "team=Copies(\"model\")",
    ];
    place.refuse(
        &[&["baseline", "pipeline", "recipe.ron"], &solo[..]].concat(),
        &["for one agent", "give the recipe of the team"],
    );
}
