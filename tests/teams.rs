//! `polyphony train` with every kind of team: different models, one model for all roles, adapters.

use polyphony_model::{LanguageModel, ModelFiles, sequence_logits};
use polyphony_test_support::{load, other_chat_model, values, weight_bits};
use serde_json::Value;

use crate::{
    command::{Place, text},
    training_run,
};

/// The place of the training tests, with a second model.
fn place() -> Place {
    let place = training_run::place();
    other_chat_model(&place.path("other"), 4096);
    place
}

fn train(place: &Place, run: &str, changes: &[&str]) {
    let mut arguments = vec!["train", "recipe.ron", "--run-dir", run];
    arguments.extend(changes.iter().flat_map(|change| ["--set", change]));
    place.succeed(&arguments);
}

fn metrics(place: &Place, run: &str) -> Vec<Value> {
    place.read_lines(&format!("{run}/metrics.jsonl"))
}

#[test]
fn models_of_two_architectures_with_tokenizers_of_their_own_train_together() {
    let place = place();
    let team = r#"team=Each(["model", "other"])"#;
    train(&place, "run", &[team, "steps=20", "max_new_tokens=40"]);
    let metrics = metrics(&place, "run");
    assert_eq!(metrics.len(), 20);
    for (role, model) in [("summarizer", "model"), ("elaborator", "other")] {
        for line in &metrics {
            let gap = line[format!("{role}/logprob_gap")].as_f64().unwrap();
            assert!(gap < 1e-3, "{role}: {line}");
        }
        let [before, after] =
            [place.path(model), place.path("run/agents").join(role)].map(|path| load(&path));
        assert_eq!(before.config(), after.config());
        assert_ne!(weight_bits(&before), weight_bits(&after), "{role} learned");
    }
    // What one tokenizer wrote, the other reads as something else.
    let node = &place.read_lines("run/rollouts.jsonl")[0];
    let prompts = [0, 1].map(|agent| &node["agents"][agent]["prompt_tokens"]);
    assert_ne!(prompts[0], prompts[1]);
    place.succeed(&["eval", "--team", "run"]);
}

#[test]
fn one_model_plays_all_roles_and_is_saved_once() {
    let place = place();
    train(&place, "run", &[r#"team=Shared("model")"#, "steps=20"]);
    let agents: Vec<_> = place
        .files()
        .into_iter()
        .filter(|path| {
            path.parent()
                .is_some_and(|parent| parent.ends_with("run/agents"))
        })
        .collect();
    assert_eq!(agents, [std::path::Path::new("run/agents/shared")]);
    let metrics = metrics(&place, "run");
    assert_eq!(metrics.len(), 20);
    for line in metrics {
        let norms = ["summarizer", "elaborator"].map(|role| &line[format!("{role}/grad_norm")]);
        assert_eq!(norms[0], norms[1], "there is one update");
    }
    let [before, after] = ["model", "run/agents/shared"].map(|name| load(&place.path(name)));
    assert_ne!(weight_bits(&before), weight_bits(&after));
    place.succeed(&["eval", "--team", "run"]);
}

/// Waiting on the only thread for another one would never end.
#[test]
fn teams_of_one_model_train_on_one_thread() {
    let place = place();
    for (run, changes) in [
        ("shared", r#"team=Shared("model")"#),
        ("single", "environment=SingleAgent(Tldr)"),
    ] {
        let mut train = vec!["train", "recipe.ron", "--run-dir", run, "--steps", "1"];
        train.extend(["--set", r#"team=Copies("model")"#, "--set", changes]);
        let mut command = place.command(&train);
        let outcome = command.env("RAYON_NUM_THREADS", "1").output().unwrap();
        assert!(outcome.status.success(), "{run}: {outcome:?}");
        assert_eq!(metrics(&place, run).len(), 1);
    }
}

#[test]
fn adapters_train_and_are_a_model_for_every_command() {
    let place = place();
    let lora = "fine_tuning=Lora(rank: 4, alpha: 8, targets: [Query, Value, Down])";
    let changes = [
        lora,
        "updates.activations=Recompute",
        "updates.learning_rate=1e-2",
    ];
    train(&place, "run", &changes);
    let below = load(&place.path("model"));
    let ids = [1, 70, 80, 90];
    let logits = |model: &LanguageModel| values(sequence_logits(model, &ids).unwrap());
    for role in ["summarizer", "elaborator"] {
        let path = place.path("run/agents").join(role);
        let adapted = load(&path);
        assert_eq!(adapted.lora().unwrap().rank, 4);
        assert_ne!(logits(&adapted), logits(&below), "{role} learned");
        place.succeed(&["generate", "--model", text(&path), "--prompt", "the cat"]);
    }
    place.succeed(&["eval", "--team", "run"]);

    let adapters = "run/agents/summarizer";
    place.succeed(&["models", "merge", adapters, "whole"]);
    let [whole, adapted] = ["whole", adapters].map(|name| logits(&load(&place.path(name))));
    for (own, expected) in whole.iter().zip(adapted) {
        assert!((own - expected).abs() < 1e-5, "{own} is not {expected}");
    }
    let again = ["models", "merge", "whole", "other-whole"];
    place.refuse(&again, &["whole has no adapters"]);
    let onto = ["models", "merge", adapters, "whole"];
    place.refuse(&onto, &["whole already exists"]);

    // Trained further as whole models, and refused as adapters on adapters.
    let team = r#"team=Each(["run/agents/summarizer", "run/agents/elaborator"])"#;
    train(&place, "on", &[team, "steps=1"]);
    let whole = ModelFiles::open(&place.path("on/agents/summarizer")).unwrap();
    assert!(whole.adapter.is_none());
    let again = ["train", "recipe.ron", "--set", team, "--set", lora];
    let expected = ["already has low-rank adapters: merge them", "`models merge`"];
    place.refuse(&again, &expected);
}

#[test]
fn layers_run_again_train_as_layers_kept_do() {
    let place = place();
    for (run, activations) in [("keep", "Keep"), ("again", "Recompute")] {
        train(
            &place,
            run,
            &[&format!("updates.activations={activations}")],
        );
    }
    let returns = |run| -> Vec<f64> {
        let lines = metrics(&place, run).into_iter();
        lines.map(|line| line["return"].as_f64().unwrap()).collect()
    };
    assert_eq!(returns("keep"), returns("again"));
}
