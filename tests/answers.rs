//! `score`, `logprobs`, `generate` and `models` in the forms that scripts rely on.

use polyphony_model::sequence_logprobs;
use polyphony_test_support::{chat_model, fixture, load};
use serde_json::{Value, json};

use crate::command::{Place, json_lines, python, text};

#[test]
fn score_prints_reward_and_parts_for_every_line() {
    let place = Place::new();
    let rows = include_str!("../crates/polyphony-env/fixtures/writing.jsonl");
    let rows: Vec<Value> = json_lines(rows).into_iter().step_by(10).collect();
    let lines: Vec<String> = rows
        .iter()
        .map(|row| json!({"responses": [row["first"], row["second"]]}).to_string())
        .collect();
    place.write("in.jsonl", lines.join("\n"));
    for environment in ["tldr", "arxiv"] {
        let printed = place.succeed(&["score", "--env", environment, "--input", "in.jsonl"]);
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
    let place = Place::new();
    let rows = include_str!("../crates/polyphony-env/fixtures/coding.jsonl");
    let rows: Vec<Value> = json_lines(rows).into_iter().step_by(12).collect();
    let lines: Vec<String> = rows
        .iter()
        .map(|row| json!({"task_id": row["task_id"], "responses": [row["aux"], row["main"]]}))
        .map(|line| line.to_string())
        .collect();
    place.write("in.jsonl", lines.join("\n"));
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
    let scores = json_lines(&place.succeed(&run));
    assert_eq!(scores.len(), rows.len());
    for (score, row) in scores.iter().zip(&rows) {
        let (reward, expected) = (&score["reward"], &row["reward"]);
        let gap = reward.as_f64().unwrap() - expected.as_f64().unwrap();
        assert!(gap.abs() < 1e-6, "{row}: {score}");
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
        place.write("wrong.jsonl", line);
        let run = score(&["--input", "wrong.jsonl"]);
        let run: Vec<&str> = run.iter().map(String::as_str).collect();
        let (first, rest) = expected.split_once(": ").unwrap();
        place.refuse(&run, &[first, rest]);
    }
    let coding = ["score", "--env", "coding", "--python", &python];
    place.refuse(
        &[&coding[..], &["--input", "in.jsonl"]].concat(),
        &["in.jsonl, line 1", "there is no --tasks", "has no field `"],
    );
    place.refuse(
        &[
            "score", "--env", "tldr", "--tasks", "x", "--input", "in.jsonl",
        ],
        &["loading --tasks", "`x`: unknown data set format"],
    );
}

#[test]
fn logprobs_needs_no_tokenizer_and_prints_all_but_the_first() {
    let place = Place::new();
    let model = fixture("tiny-llama");
    let sequences = [vec![5, 6, 7, 8], vec![200], vec![1, 255, 0]];
    let lines = sequences
        .iter()
        .map(|ids| json!({"ids": ids}).to_string() + "\n");
    place.write("in.jsonl", lines.collect::<String>());
    let printed = place.succeed(&["logprobs", "--model", text(&model), "--input", "in.jsonl"]);
    let answers = json_lines(&printed);
    assert_eq!(answers.len(), 3);
    let loaded = load(&model);
    for (answer, ids) in answers.iter().zip(&sequences) {
        assert_eq!(answer.as_object().unwrap().len(), 1);
        let own: Vec<f32> = serde_json::from_value(answer["logprobs"].clone()).unwrap();
        assert_eq!(own, sequence_logprobs(&loaded, ids).unwrap());
    }
}

#[test]
fn generate_continues_token_ids_without_a_tokenizer() {
    let place = Place::new();
    place.write("in.jsonl", "{\"ids\": [5, 6, 7]}\n{\"ids\": [9]}\n");
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
    let answers = json_lines(&place.succeed(&arguments));
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
    let place = Place::new();
    let model = place.path("model");
    chat_model(&model, 1024);
    let ask = |more: &[&str]| {
        let arguments = ["generate", "--model", "model", "--prompt", "the cat"];
        json_lines(&place.succeed(&[&arguments, more].concat())).remove(0)
    };
    let long = ["--max-new-tokens", "800"];
    let free = ask(&[&long[..], &["--ignore-eos"]].concat());
    assert_eq!(
        (free["ids"].as_array().unwrap().len(), &free["finish"]),
        (800, &json!("length"))
    );
    assert!(!free["text"].as_str().unwrap().is_empty());

    // Some token of this many ends the response; up to there nothing changes.
    let ids: Vec<u32> = serde_json::from_value(free["ids"].clone()).unwrap();
    let end = ids
        .iter()
        .position(|&id| id == 2)
        .expect("this seed draws an end token");
    let stopped = ask(&long);
    assert_eq!(stopped["ids"], json!(ids[..=end]));
    assert_eq!(stopped["finish"], "stop");
    assert!(!stopped["text"].as_str().unwrap().contains("<|im_end|>"));

    assert_eq!(ask(&long), stopped, "the seed is fixed");
    let other = ask(&["--max-new-tokens", "4", "--ignore-eos", "--seed", "1"]);
    assert_ne!(other["ids"], json!(ids[..4]));
}

#[test]
fn models_lists_what_is_known_and_where() {
    let place = Place::new();
    let listed = json_lines(&place.succeed(&["models"]));
    assert_eq!(listed[0]["name"], "smollm2-135m");
    assert_eq!(listed[0]["cached"], false);
    assert_eq!(
        listed[0]["path"],
        text(&place.path("cache/models/smollm2-135m"))
    );
}
