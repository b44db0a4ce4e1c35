//! Every recipe that ships with the program runs, here with a tiny model.

use std::path::Path;

use polyphony::Program;
use polyphony_test_support::chat_model;

use crate::command::{TestDir, python};

/// Options that make a run short.
const SHORT: [&str; 12] = [
    "--set",
    "team=Copies(\"model\")",
    "--set",
    "max_new_tokens=6",
    "--set",
    "evaluation.tasks=1",
    "--set",
    "algorithm.samples=2",
    "--set",
    "tasks_per_step=1",
    "--steps",
    "1",
];

/// Embedded data that replaces the data files, which are not available in a test.
fn embedded_data(recipe: &str) -> Option<[&'static str; 2]> {
    match recipe {
        text if text.contains("\"data/tldr/") => Some([
            "train=Embedded(TldrTrain)",
            "held_out=Embedded(TldrHeldOut)",
        ]),
        text if text.contains("\"data/arxiv/") => Some([
            "train=Embedded(ArxivTrain)",
            "held_out=Embedded(ArxivHeldOut)",
        ]),
        text if text.contains("\"data/coophumaneval/") => Some([
            "train=Embedded(CoopTrain)",
            "held_out=Embedded(CoopHeldOut)",
        ]),
        _ => None,
    }
}

#[test]
fn every_shipped_recipe_runs_a_step() {
    let dir = TestDir::new();
    chat_model(&dir.path("model"), 8192);
    // The file that `cargo xtask fetch humaneval` would download.
    let problems =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../polyphony-env/fixtures/HumanEval.jsonl.gz");
    std::fs::create_dir(dir.path("data")).unwrap();
    std::fs::copy(problems, dir.path("data/HumanEval.jsonl.gz")).unwrap();
    let program = Program::standard();
    let shipped = program.registry().recipes();
    assert!(shipped.len() > 0);
    for recipe in shipped {
        let name = recipe.name;
        let interpreter = format!("environment.sandbox.interpreter={:?}", python());
        let runs_programs = recipe.text.contains("Coding(");
        let mut more = Vec::new();
        if runs_programs {
            more.extend(["--set", &interpreter]);
        }
        if let Some(embedded) = embedded_data(recipe.text) {
            more.extend(embedded.map(|data| ["--set", data]).concat());
        }
        dir.succeed(&[&["train", name, "--run-dir", name], &SHORT[..], &more].concat());
        let metrics = dir.read_lines(&format!("{name}/metrics.jsonl"));
        assert_eq!(metrics.len(), 1, "{name}");
        assert_eq!(
            metrics[0].get("sandbox/runs").is_some(),
            runs_programs,
            "{name}"
        );
        let is_confined = dir.path(&format!("{name}/environment.json")).exists();
        assert_eq!(is_confined, runs_programs, "{name}");
    }
}

#[test]
fn without_a_name_the_default_recipe_is_trained() {
    let dir = TestDir::new();
    chat_model(&dir.path("model"), 8192);
    dir.succeed(&[&["train", "--run-dir", "run"], &SHORT[..]].concat());
    let program = Program::standard();
    let default = program.registry().recipes().next().unwrap();
    let environment = match default.name {
        name if name.starts_with("tldr") => "environment: Tldr",
        _ => "environment: Arxiv",
    };
    assert!(dir.read("run/recipe.ron").contains(environment));
}

#[test]
fn an_error_about_missing_problems_names_the_command_that_downloads_them() {
    let interpreter = format!("environment.sandbox.interpreter={:?}", python());
    let run = ["train", "humaneval-smollm2", "--set", &interpreter];
    let expected = [
        "loading `train`",
        "`cargo xtask fetch humaneval` downloads",
        "HumanEval.jsonl.gz",
    ];
    TestDir::new().refuse(&run, &expected);
}
