//! Every recipe that ships with the program runs, here with a tiny model.

use polyphony_runner::recipe::{DEFAULT_NAME, shipped};

use crate::{command::Place, tiny::chat_model};

/// What makes a run short.
const SHORT: [&str; 10] = [
    "--set",
    "team=Copies(\"model\")",
    "--set",
    "max_new_tokens=6",
    "--set",
    "evaluation.tasks=1",
    "--set",
    "updates.buffer=1",
    "--steps",
    "1",
];

#[test]
fn every_shipped_recipe_runs_a_step() {
    let place = Place::new();
    chat_model(&place.path("model"), 8192);
    assert!(!shipped().is_empty());
    for recipe in shipped() {
        let name = recipe.name;
        place.succeed(&[&["train", name, "--run-dir", name], &SHORT[..]].concat());
        assert_eq!(
            place.read_lines(&format!("{name}/metrics.jsonl")).len(),
            1,
            "{name}"
        );
    }
}

#[test]
fn without_a_name_the_default_recipe_is_trained() {
    let place = Place::new();
    chat_model(&place.path("model"), 8192);
    place.succeed(&[&["train", "--run-dir", "run"], &SHORT[..]].concat());
    let environment = match DEFAULT_NAME {
        name if name.starts_with("tldr") => "environment: Tldr",
        _ => "environment: Arxiv",
    };
    assert!(place.read("run/recipe.ron").contains(environment));
}
