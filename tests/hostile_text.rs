//! Untrusted text in messages, tables and pages: it never controls a terminal, and its length is limited.

use std::{fs, path::Path};

use polyphony_test_support::{chat_model, edit_json};
use safetensors::{SafeTensors, serialize_to_file, tensor::TensorView};
use serde_json::json;

use crate::{
    command::{TestDir, python},
    training_run,
};

/// Text that clears the screen, sets the window title, and changes the colour and the direction of later
/// text.
const HOSTILE: &str =
    "\u{1b}[2J\u{1b}]0;x\u{7}\u{8}\u{7f}\u{9b}31m\r\u{202e}\u{2066}\u{200f}\u{61c}";

/// The longest message in bytes. A message may quote several long texts.
const LONGEST: usize = 20_000;

fn is_hostile(character: char) -> bool {
    polyphony_report::is_control(character) && !matches!(character, '\n' | '\t')
}

/// Runs a command, whatever its outcome, and checks that it writes no control characters.
#[track_caller]
fn check_quiet(dir: &TestDir, arguments: &[&str]) -> String {
    let result = dir.run(arguments);
    let written = format!("{}{}", result.stdout, result.stderr);
    assert_eq!(written.find(is_hostile), None, "{arguments:?}: {written:?}");
    written
}

/// Like [`check_quiet`], for a command that must write the hostile text with escapes.
#[track_caller]
fn check(dir: &TestDir, arguments: &[&str]) {
    let written = check_quiet(dir, arguments);
    let is_escaped = written.contains("\\u{1b}") || written.contains("\\u001b");
    assert!(is_escaped, "{arguments:?} does not show it: {written}");
}

#[test]
fn arguments() {
    let dir = training_run::test_dir();
    dir.write("in.jsonl", "{}\n");
    let list = json!([HOSTILE]).to_string();
    let recipe = ["train", "recipe.ron", "--run-dir", "run", "--set"];
    let value = format!("seed={HOSTILE}");
    let key = format!("{HOSTILE}=1");
    let team = format!("team=Copies({HOSTILE:?})");
    let rows: &[&[&str]] = &[
        &[HOSTILE],
        &["train", HOSTILE],
        &["train", "--steps", HOSTILE],
        &["train", "--device", HOSTILE],
        &[&recipe[..], &[value.as_str()]].concat(),
        &[&recipe[..], &[key.as_str()]].concat(),
        &[&recipe[..], &[team.as_str()]].concat(),
        &["resume", HOSTILE],
        &["eval", HOSTILE],
        &["eval", "--team", HOSTILE],
        &["baseline", HOSTILE],
        &["baseline", "single", HOSTILE],
        &["compare", HOSTILE],
        &["report", HOSTILE],
        &["watch", HOSTILE],
        &["generate", "--model", HOSTILE, "--prompt", "x"],
        &["generate", "--model", "model", "--input", HOSTILE],
        &["logprobs", "--model", HOSTILE, "--input", "in.jsonl"],
        &["logprobs", "--model", "model", "--input", HOSTILE],
        &["score", "--env", HOSTILE, "--input", "in.jsonl"],
        &["score", "--env", "tldr", "--input", HOSTILE],
        &[
            "score", "--env", "tldr", "--input", "in.jsonl", "--tasks", HOSTILE,
        ],
        &["environment", "check", "--command", HOSTILE],
        &["environment", "check", "--command", &list],
        &["models", "fetch", HOSTILE],
        &["models", "merge", HOSTILE, "target"],
        &["sandbox", "check", "--python", HOSTILE],
        &[
            "sandbox",
            "run",
            "--solution",
            HOSTILE,
            "--tests",
            "x",
            "--entry",
            "f",
        ],
        &["bench", "--model", HOSTILE],
    ];
    for arguments in rows {
        check(&dir, arguments);
    }
}

/// Puts hostile text into a model and checks the message about it.
#[track_caller]
fn check_model(change: impl FnOnce(&Path)) {
    let dir = TestDir::new();
    let model = dir.path("model");
    chat_model(&model, 128);
    change(&model);
    check(&dir, &["generate", "--model", "model", "--prompt", "x"]);
}

#[test]
fn models() {
    for key in ["model_type", "rope_parameters"] {
        let change = |config: &mut serde_json::Value| {
            config[key] = match key {
                "rope_parameters" => json!({"rope_type": HOSTILE}),
                _ => json!(HOSTILE),
            };
        };
        check_model(|model| edit_json(&model.join("config.json"), change));
    }
    check_model(|model| {
        let path = model.join("model.safetensors");
        let bytes = fs::read(&path).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let tensors = file.tensors().into_iter();
        let renamed = tensors.map(|(name, view)| (name.replace("norm", HOSTILE), view));
        let tensors: Vec<(String, TensorView<'_>)> = renamed.collect();
        serialize_to_file(tensors, None, &path).unwrap();
    });
    check_model(|model| {
        let template = format!("{{{{ raise_exception({}) }}}}", json!(HOSTILE));
        fs::write(model.join("chat_template.jinja"), template).unwrap();
    });
}

#[test]
fn recipes_data_and_input() {
    let dir = training_run::test_dir();
    let recipe = dir.read("recipe.ron");
    let train = ["train", "mine.ron", "--run-dir", "run"];
    for (from, to) in [
        ("\"posts.jsonl\"", format!("{HOSTILE:?}")),
        ("\"body\"", format!("{HOSTILE:?}")),
        ("[\"model\",", format!("[{HOSTILE:?},")),
    ] {
        dir.write("mine.ron", recipe.replacen(from, &to, 1));
        check(&dir, &train);
    }
    dir.write(
        "mine.ron",
        recipe.replacen("seed: 7", &format!("{HOSTILE}: 7"), 1),
    );
    check_quiet(&dir, &train);
    dir.write("mine.ron", recipe);
    dir.write("posts.jsonl", format!("{}\n", json!({HOSTILE: "x"})));
    check(&dir, &train);

    let score = ["score", "--env", "coding", "--input", "in.jsonl"];
    let python = python();
    let score = [&score[..], &["--python", &python, "--tasks", "tasks.jsonl"]].concat();
    let task = json!({"task_id": "t", "prompt": "def f():\n", "entry_point": "f",
        "test": "def check(candidate):\n    assert candidate() == 1\n"});
    dir.write("tasks.jsonl", format!("{task}\n"));
    let line = json!({"task_id": HOSTILE, "responses": ["", ""]});
    dir.write("in.jsonl", format!("{line}\n"));
    check(&dir, &score);
    dir.write("tasks.jsonl", format!("{}\n", json!({HOSTILE: "x"})));
    check(&dir, &score);
    dir.write("solution.py", format!("x = {HOSTILE}\n"));
    dir.write(
        "tests.py",
        "def check(candidate):\n    assert candidate() == 1\n",
    );
    let run = [
        "sandbox",
        "run",
        "--solution",
        "solution.py",
        "--tests",
        "tests.py",
    ];
    check_quiet(
        &dir,
        &[&run[..], &["--python", &python, "--entry", HOSTILE]].concat(),
    );
}

/// An environment program whose reward part, task and observation are hostile. The name of its role is not,
/// because such a name is refused: it becomes the name of a directory.
const PROGRAM: &str = r#"
import json, sys
hostile = json.loads(sys.argv[1])
for line in sys.stdin:
    call = json.loads(line)
    tasks = [{"id": hostile, "fields": {}}]
    if call["call"] == "hello":
        answer = {"protocol": 1, "roles": [{"name": "a"}], "reward_parts": [hostile],
                  "tasks": {"train": tasks, "held_out": tasks}}
    elif call["call"] == "start":
        answer = {"observations": [hostile]}
    else:
        answer = {"reward": {hostile: len(set(call["responses"][0]["text"]))}, "end": True}
    print(json.dumps({"id": call["id"], **answer}), flush=True)
"#;

#[test]
fn runs_and_their_reports() {
    let dir = training_run::test_dir();
    let program = [
        python(),
        "-c".to_owned(),
        PROGRAM.to_owned(),
        json!(HOSTILE).to_string(),
    ];
    let command = json!(program).to_string();
    check(&dir, &["environment", "check", "--command", &command]);

    let strings: Vec<String> = program.iter().map(|word| ron_text(word)).collect();
    dir.write(
        "game.ron",
        format!(
            "(environment: Process(command: [{}]), team: Copies(\"model\"), max_new_tokens: 8, \
             steps: 2, algorithm: Magrpo(samples: 2), updates: (learning_rate: 1e-3), \
             evaluation: (tasks: 1))",
            strings.join(", ")
        ),
    );
    let run = format!("run{HOSTILE}");
    let base = format!("base{HOSTILE}");
    check(&dir, &["train", "game.ron", "--run-dir", &run]);
    check(&dir, &["resume", &run, "--steps", "3"]);
    check(&dir, &["eval", "--team", &run]);
    check(
        &dir,
        &["baseline", "single", "game.ron", "--run-dir", &base],
    );
    check(&dir, &["compare", &run, &base]);
    check(&dir, &["watch", &run]);
    check(&dir, &["watch", &base]);
    let page = format!("page{HOSTILE}.html");
    check(&dir, &["report", &run, &base, "-o", &page]);
    let page = dir.read(&page);
    assert_eq!(page.find(is_hostile), None);
    assert!(page.contains("\\u{1b}[2J"));

    // Somebody has edited an evaluation.
    let evaluations = format!("{run}/evaluations.jsonl");
    let edited = dir
        .read(&evaluations)
        .replacen("{", &format!("{{{HOSTILE}"), 1);
    dir.write(&evaluations, edited);
    for command in ["resume", "compare", "report", "watch"] {
        check(&dir, &[command, &run]);
    }
}

/// A text as RON writes it.
fn ron_text(text: &str) -> String {
    let mut escaped = String::from("\"");
    for character in text.chars() {
        escaped.extend(character.escape_default());
    }
    escaped + "\""
}

#[test]
fn the_length_of_messages_is_limited() {
    let long = "x".repeat(1 << 20);
    let dir = TestDir::new();
    let model = dir.path("model");
    chat_model(&model, 128);
    let template = format!("{{{{ raise_exception('begin {} end') }}}}", &long[..40_000]);
    fs::write(model.join("chat_template.jinja"), template).unwrap();
    let generate = ["generate", "--model", "model", "--prompt", "x"];
    let result = dir.run(&generate);
    let written = result.stderr;
    assert!(written.len() < LONGEST, "{} bytes", written.len());
    assert!(written.contains("characters left out"), "{written}");

    edit_json(&model.join("config.json"), |config| {
        config["model_type"] = json!(long)
    });
    let written = dir.run(&generate).stderr;
    assert!(written.len() < LONGEST, "{} bytes", written.len());
    assert!(written.contains("characters left out"), "{written}");
}
