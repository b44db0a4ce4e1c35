//! The output of `score`, `logprobs`, `generate`, `device` and `models` in the form that scripts rely on.

use polyphony_model::sequence_logprobs;
use polyphony_test_support::{chat_model, fixture, load};
use serde_json::{Value, json};

use crate::command::{TestDir, json_lines, python, text};

#[test]
fn score_prints_reward_and_parts_for_every_line() {
    let dir = TestDir::new();
    let rows = include_str!("../crates/polyphony-env/fixtures/writing.jsonl");
    let rows: Vec<Value> = json_lines(rows).into_iter().step_by(10).collect();
    let lines: Vec<String> = rows
        .iter()
        .map(|row| json!({"responses": [row["first"], row["second"]]}).to_string())
        .collect();
    dir.write("in.jsonl", lines.join("\n"));
    for environment in ["tldr", "arxiv"] {
        let printed = dir.succeed(&["score", "--env", environment, "--input", "in.jsonl"]);
        let scores = json_lines(&printed);
        assert_eq!(scores.len(), rows.len());
        for (score, row) in scores.iter().zip(&rows) {
            let keys: Vec<&String> = score.as_object().unwrap().keys().collect();
            assert_eq!(keys, ["reward", "parts"]);
            let reward = score["reward"].as_f64().unwrap();
            let parts = score["parts"].as_object().unwrap().values();
            let sum: f64 = parts.map(|part| part.as_f64().unwrap()).sum();
            let expected = row[environment].as_f64().unwrap();
            assert!(
                (reward - expected).abs() < 1e-9,
                "{reward} is not {expected}"
            );
            assert!((sum - expected).abs() < 1e-9, "{sum} is not {expected}");
        }
    }
}

#[test]
fn score_runs_programs_against_the_tests_of_their_task() {
    let dir = TestDir::new();
    let rows = include_str!("../crates/polyphony-env/fixtures/coding.jsonl");
    let rows: Vec<Value> = json_lines(rows).into_iter().step_by(12).collect();
    let lines: Vec<String> = rows
        .iter()
        .map(|row| json!({"task_id": row["task_id"], "responses": [row["aux"], row["main"]]}))
        .map(|line| line.to_string())
        .collect();
    dir.write("in.jsonl", lines.join("\n"));
    let python = python();
    let score = |words: &[&str]| {
        let problems = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../polyphony-env/fixtures/HumanEval.jsonl.gz"
        );
        let fixed = [
            "score", "--env", "coding", "--tasks", problems, "--python", &python,
        ];
        [&fixed[..], words]
            .concat()
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
    };
    let run = score(&["--input", "in.jsonl"]);
    let run: Vec<&str> = run.iter().map(String::as_str).collect();
    let scores = json_lines(&dir.succeed(&run));
    assert_eq!(scores.len(), rows.len());
    for (score, row) in scores.iter().zip(&rows) {
        let (reward, expected) = (&score["reward"], &row["reward"]);
        let difference = reward.as_f64().unwrap() - expected.as_f64().unwrap();
        assert!(difference.abs() < 1e-6, "{row}: {score}");
    }

    let wrong = [
        (r#"{"responses": ["", ""]}"#, "line 1: `task_id` is missing"),
        (
            r#"{"task_id": "HumanEval/999", "responses": ["", ""]}"#,
            "line 1: `task_id` is `HumanEval/999`, but no task",
        ),
        (
            r#"{"task_id": "HumanEval/0", "responses": [""]}"#,
            "line 1: `responses` holds 1 texts, but must hold 2, one for each role: auxiliary, main",
        ),
    ];
    for (line, expected) in wrong {
        dir.write("wrong.jsonl", line);
        let run = score(&["--input", "wrong.jsonl"]);
        let run: Vec<&str> = run.iter().map(String::as_str).collect();
        let (first, rest) = expected.split_once(": ").unwrap();
        dir.refuse(&run, &[first, rest]);
    }
    let coding = ["score", "--env", "coding", "--python", &python];
    dir.refuse(
        &[&coding[..], &["--input", "in.jsonl"]].concat(),
        &["in.jsonl, line 1", "there is no --tasks", "has no field `"],
    );
    dir.refuse(
        &[
            "score", "--env", "tldr", "--tasks", "x", "--input", "in.jsonl",
        ],
        &["loading --tasks", "`x`: unknown data set format"],
    );
}

#[test]
fn logprobs_needs_no_tokenizer_and_prints_all_but_the_first() {
    let dir = TestDir::new();
    let model = fixture("tiny-llama");
    let sequences = [vec![5, 6, 7, 8], vec![200], vec![1, 255, 0]];
    let lines = sequences
        .iter()
        .map(|ids| json!({"ids": ids}).to_string() + "\n");
    dir.write("in.jsonl", lines.collect::<String>());
    let printed = dir.succeed(&["logprobs", "--model", text(&model), "--input", "in.jsonl"]);
    let answers = json_lines(&printed);
    assert_eq!(answers.len(), 3);
    let loaded = load(&model);
    for (answer, ids) in answers.iter().zip(&sequences) {
        assert_eq!(answer.as_object().unwrap().len(), 1);
        let logprobs: Vec<f32> = serde_json::from_value(answer["logprobs"].clone()).unwrap();
        assert_eq!(logprobs, sequence_logprobs(&loaded, ids).unwrap());
    }
}

#[test]
fn generate_continues_token_ids_without_a_tokenizer() {
    let dir = TestDir::new();
    dir.write("in.jsonl", "{\"ids\": [5, 6, 7]}\n{\"ids\": [9]}\n");
    let model = fixture("tiny-llama");
    let flags = [
        "--input",
        "in.jsonl",
        "--greedy",
        "--ignore-eos",
        "--max-new-tokens",
        "40",
    ];
    let arguments = [&["generate", "--model", text(&model)], &flags[..]].concat();
    let answers = json_lines(&dir.succeed(&arguments));
    assert_eq!(answers.len(), 2);
    for answer in answers {
        let keys: Vec<&String> = answer.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["text", "ids", "finish"]);
        assert_eq!(
            (&answer["text"], &answer["finish"]),
            (&Value::Null, &json!("length"))
        );
        assert_eq!(answer["ids"].as_array().unwrap().len(), 40);
    }
}

#[test]
fn generate_answers_a_prompt_through_the_chat_template() {
    let dir = TestDir::new();
    let model = dir.path("model");
    chat_model(&model, 1024);
    let answer = |more: &[&str]| {
        let arguments = ["generate", "--model", "model", "--prompt", "the cat"];
        json_lines(&dir.succeed(&[&arguments, more].concat())).remove(0)
    };
    let long = ["--max-new-tokens", "800"];
    let unstopped = answer(&[&long[..], &["--ignore-eos"]].concat());
    assert_eq!(
        (
            unstopped["ids"].as_array().unwrap().len(),
            &unstopped["finish"]
        ),
        (800, &json!("length"))
    );
    assert!(!unstopped["text"].as_str().unwrap().is_empty());

    // One of these 800 tokens is an end token. Without `--ignore-eos` the response ends there, and the tokens
    // before it are the same.
    let ids: Vec<u32> = serde_json::from_value(unstopped["ids"].clone()).unwrap();
    let end = ids
        .iter()
        .position(|&id| id == 2)
        .expect("this seed samples an end token");
    let stopped = answer(&long);
    assert_eq!(stopped["ids"], json!(ids[..=end]));
    assert_eq!(stopped["finish"], "stop");
    assert!(!stopped["text"].as_str().unwrap().contains("<|im_end|>"));

    assert_eq!(answer(&long), stopped, "the seed is fixed");
    let other_seed = answer(&["--max-new-tokens", "4", "--ignore-eos", "--seed", "1"]);
    assert_ne!(other_seed["ids"], json!(ids[..4]));
}

#[test]
fn device_list_prints_every_kind_of_device() {
    let dir = TestDir::new();
    let lines = json_lines(&dir.succeed(&["device", "list"]));
    let cpu = &lines[0];
    assert_eq!(cpu["device"], "cpu");
    assert!(
        cpu["memory_bytes"].is_u64() && cpu["precisions"][0] == "F32",
        "{cpu}"
    );
    for kind in ["cuda", "vulkan", "wgpu"] {
        let of_kind = |line: &&Value| {
            line["device"]
                .as_str()
                .is_some_and(|name| name.starts_with(kind))
        };
        let line = lines.iter().find(of_kind).unwrap();
        assert!(
            line["missing"].is_string() || line["precisions"].is_array(),
            "{line}"
        );
    }
}

#[test]
fn models_lists_known_models_and_their_paths() {
    let dir = TestDir::new();
    let models = json_lines(&dir.succeed(&["models"]));
    assert_eq!(models[0]["name"], "smollm2-135m");
    assert_eq!(models[0]["cached"], false);
    assert_eq!(
        models[0]["path"],
        text(&dir.path("cache/models/smollm2-135m"))
    );
}
