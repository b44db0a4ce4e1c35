//! Foreign text in messages, tables and pages: nothing of it controls a terminal, and none of it is endless.

use std::{fs, path::Path};

use polyphony_test_support::{chat_model, edit_json};
use safetensors::{SafeTensors, serialize_to_file, tensor::TensorView};
use serde_json::json;

use crate::{
    command::{Place, python},
    training_run,
};

/// Clears the screen, sets the title of the window, colours what follows, and turns its direction.
const HOSTILE: &str =
    "\u{1b}[2J\u{1b}]0;x\u{7}\u{8}\u{7f}\u{9b}31m\r\u{202e}\u{2066}\u{200f}\u{61c}";

/// More than one place of a message may quote something long.
const LONGEST: usize = 20_000;

fn is_hostile(character: char) -> bool {
    polyphony_report::is_control(character) && !matches!(character, '\n' | '\t')
}

/// Runs a command, whatever its outcome, and checks that it writes nothing hostile.
#[track_caller]
fn check_quiet(place: &Place, arguments: &[&str]) -> String {
    let ended = place.run(arguments);
    let written = format!("{}{}", ended.stdout, ended.stderr);
    assert_eq!(written.find(is_hostile), None, "{arguments:?}: {written:?}");
    written
}

/// The same for a command that writes the hostile text in a form that can be read.
#[track_caller]
fn check(place: &Place, arguments: &[&str]) {
    let written = check_quiet(place, arguments);
    let is_shown = written.contains("\\u{1b}") || written.contains("\\u001b");
    assert!(is_shown, "{arguments:?} does not show it: {written}");
}

#[test]
fn arguments() {
    let place = training_run::place();
    place.write("in.jsonl", "{}\n");
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
        check(&place, arguments);
    }
}

/// Spoils a model and checks what commands say of it.
#[track_caller]
fn check_model(spoil: impl FnOnce(&Path)) {
    let place = Place::new();
    let model = place.path("model");
    chat_model(&model, 128);
    spoil(&model);
    check(&place, &["generate", "--model", "model", "--prompt", "x"]);
}

#[test]
fn models() {
    for key in ["model_type", "rope_parameters"] {
        let spoil = |config: &mut serde_json::Value| {
            config[key] = match key {
                "rope_parameters" => json!({"rope_type": HOSTILE}),
                _ => json!(HOSTILE),
            };
        };
        check_model(|model| edit_json(&model.join("config.json"), spoil));
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
    let place = training_run::place();
    let recipe = place.read("recipe.ron");
    let train = ["train", "mine.ron", "--run-dir", "run"];
    for (from, to) in [
        ("\"posts.jsonl\"", format!("{HOSTILE:?}")),
        ("\"body\"", format!("{HOSTILE:?}")),
        ("[\"model\",", format!("[{HOSTILE:?},")),
    ] {
        place.write("mine.ron", recipe.replacen(from, &to, 1));
        check(&place, &train);
    }
    place.write(
        "mine.ron",
        recipe.replacen("seed: 7", &format!("{HOSTILE}: 7"), 1),
    );
    check_quiet(&place, &train);
    place.write("mine.ron", recipe);
    place.write("posts.jsonl", format!("{}\n", json!({HOSTILE: "x"})));
    check(&place, &train);

    let score = ["score", "--env", "coding", "--input", "in.jsonl"];
    let python = python();
    let score = [&score[..], &["--python", &python, "--tasks", "tasks.jsonl"]].concat();
    let task = json!({"task_id": "t", "prompt": "def f():\n", "entry_point": "f",
        "test": "def check(candidate):\n    assert candidate() == 1\n"});
    place.write("tasks.jsonl", format!("{task}\n"));
    let line = json!({"task_id": HOSTILE, "responses": ["", ""]});
    place.write("in.jsonl", format!("{line}\n"));
    check(&place, &score);
    place.write("tasks.jsonl", format!("{}\n", json!({HOSTILE: "x"})));
    check(&place, &score);
    place.write("solution.py", format!("x = {HOSTILE}\n"));
    place.write(
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
        &place,
        &[&run[..], &["--python", &python, "--entry", HOSTILE]].concat(),
    );
}

/// A game whose role, reward part, task and observation are hostile; the role can be a directory.
const GAME: &str = r#"
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
fn runs_and_what_is_made_of_them() {
    let place = training_run::place();
    let program = [
        python(),
        "-c".to_owned(),
        GAME.to_owned(),
        json!(HOSTILE).to_string(),
    ];
    let command = json!(program).to_string();
    check(&place, &["environment", "check", "--command", &command]);

    let strings: Vec<String> = program.iter().map(|word| ron_text(word)).collect();
    place.write(
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
    check(&place, &["train", "game.ron", "--run-dir", &run]);
    check(&place, &["resume", &run, "--steps", "3"]);
    check(&place, &["eval", "--team", &run]);
    check(
        &place,
        &["baseline", "single", "game.ron", "--run-dir", &base],
    );
    check(&place, &["compare", &run, &base]);
    check(&place, &["watch", &run]);
    check(&place, &["watch", &base]);
    let page = format!("page{HOSTILE}.html");
    check(&place, &["report", &run, &base, "-o", &page]);
    let page = place.read(&page);
    assert_eq!(page.find(is_hostile), None);
    assert!(page.contains("\\u{1b}[2J"));

    // Somebody has edited an evaluation.
    let evaluations = format!("{run}/evaluations.jsonl");
    let edited = place
        .read(&evaluations)
        .replacen("{", &format!("{{{HOSTILE}"), 1);
    place.write(&evaluations, edited);
    for command in ["resume", "compare", "report", "watch"] {
        check(&place, &[command, &run]);
    }
}

/// A text as RON writes it.
fn ron_text(text: &str) -> String {
    let mut shown = String::from("\"");
    for character in text.chars() {
        shown.extend(character.escape_default());
    }
    shown + "\""
}

#[test]
fn messages_have_an_end() {
    let long = "x".repeat(1 << 20);
    let place = Place::new();
    let model = place.path("model");
    chat_model(&model, 128);
    let template = format!("{{{{ raise_exception('begin {} end') }}}}", &long[..40_000]);
    fs::write(model.join("chat_template.jinja"), template).unwrap();
    let generate = ["generate", "--model", "model", "--prompt", "x"];
    let ended = place.run(&generate);
    let written = ended.stderr;
    assert!(written.len() < LONGEST, "{} bytes", written.len());
    assert!(written.contains("characters left out"), "{written}");

    edit_json(&model.join("config.json"), |config| {
        config["model_type"] = json!(long)
    });
    let written = place.run(&generate).stderr;
    assert!(written.len() < LONGEST, "{} bytes", written.len());
    assert!(written.contains("characters left out"), "{written}");
}
