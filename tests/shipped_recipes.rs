//! Every recipe that ships with the program runs, here with a tiny model.

use std::path::Path;

use polyphony::Program;
use polyphony_test_support::chat_model;

use crate::command::{Place, python};

/// What makes a run short.
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

/// What takes the place of data that is not here.
fn stand_in(recipe: &str) -> Option<[&'static str; 2]> {
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
    let place = Place::new();
    chat_model(&place.path("model"), 8192);
    // What `cargo xtask fetch humaneval` would bring.
    let problems =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../polyphony-env/fixtures/HumanEval.jsonl.gz");
    std::fs::create_dir(place.path("data")).unwrap();
    std::fs::copy(problems, place.path("data/HumanEval.jsonl.gz")).unwrap();
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
        if let Some(embedded) = stand_in(recipe.text) {
            more.extend(embedded.map(|data| ["--set", data]).concat());
        }
        place.succeed(&[&["train", name, "--run-dir", name], &SHORT[..], &more].concat());
        let metrics = place.read_lines(&format!("{name}/metrics.jsonl"));
        assert_eq!(metrics.len(), 1, "{name}");
        assert_eq!(
            metrics[0].get("sandbox/runs").is_some(),
            runs_programs,
            "{name}"
        );
        let confined = place.path(&format!("{name}/environment.json")).exists();
        assert_eq!(confined, runs_programs, "{name}");
    }
}

#[test]
fn without_a_name_the_default_recipe_is_trained() {
    let place = Place::new();
    chat_model(&place.path("model"), 8192);
    place.succeed(&[&["train", "--run-dir", "run"], &SHORT[..]].concat());
    let program = Program::standard();
    let default = program.registry().recipes().next().unwrap();
    let environment = match default.name {
        name if name.starts_with("tldr") => "environment: Tldr",
        _ => "environment: Arxiv",
    };
    assert!(place.read("run/recipe.ron").contains(environment));
}

#[test]
fn problems_that_are_not_there_are_told_how_to_come() {
    let interpreter = format!("environment.sandbox.interpreter={:?}", python());
    let run = ["train", "humaneval-smollm2", "--set", &interpreter];
    let expected = [
        "loading `train`",
        "`cargo xtask fetch humaneval` brings",
        "HumanEval.jsonl.gz",
    ];
    Place::new().refuse(&run, &expected);
}
