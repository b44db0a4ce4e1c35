//! `polyphony train` with every kind of team: different models, one model for all roles, adapters.

use polyphony_model::{LanguageModel, ModelFiles, sequence_logits};
use polyphony_test_support::{load, other_chat_model, values, weight_bits};
use serde_json::Value;

use crate::{
    command::{TestDir, text},
    training_run,
};

/// The directory of the training tests, with a second model.
fn test_dir() -> TestDir {
    let dir = training_run::test_dir();
    other_chat_model(&dir.path("other"), 4096);
    dir
}

fn train(dir: &TestDir, run: &str, changes: &[&str]) {
    let mut arguments = vec!["train", "recipe.ron", "--run-dir", run];
    arguments.extend(changes.iter().flat_map(|change| ["--set", change]));
    dir.succeed(&arguments);
}

fn metrics(dir: &TestDir, run: &str) -> Vec<Value> {
    dir.read_lines(&format!("{run}/metrics.jsonl"))
}

#[test]
fn models_of_two_architectures_with_different_tokenizers_train_together() {
    let dir = test_dir();
    let team = r#"team=Each(["model", "other"])"#;
    train(&dir, "run", &[team, "steps=20", "max_new_tokens=40"]);
    let metrics = metrics(&dir, "run");
    assert_eq!(metrics.len(), 20);
    for (role, model) in [("summarizer", "model"), ("elaborator", "other")] {
        for line in &metrics {
            let gap = line[format!("{role}/logprob_gap")].as_f64().unwrap();
            assert!(gap < 1e-3, "{role}: {line}");
        }
        let [before, after] =
            [dir.path(model), dir.path("run/agents").join(role)].map(|path| load(&path));
        assert_eq!(before.config(), after.config());
        assert_ne!(weight_bits(&before), weight_bits(&after), "{role} learned");
    }
    // The two tokenizers have different ids for the same text.
    let node = &dir.read_lines("run/rollouts.jsonl")[0];
    let prompts = [0, 1].map(|agent| &node["agents"][agent]["prompt_tokens"]);
    assert_ne!(prompts[0], prompts[1]);
    dir.succeed(&["eval", "--team", "run"]);
}

#[test]
fn one_model_plays_all_roles_and_is_saved_once() {
    let dir = test_dir();
    train(&dir, "run", &[r#"team=Shared("model")"#, "steps=20"]);
    let agents: Vec<_> = dir
        .files()
        .into_iter()
        .filter(|path| {
            path.parent()
                .is_some_and(|parent| parent.ends_with("run/agents"))
        })
        .collect();
    assert_eq!(agents, [std::path::Path::new("run/agents/shared")]);
    let metrics = metrics(&dir, "run");
    assert_eq!(metrics.len(), 20);
    for line in metrics {
        let norms = ["summarizer", "elaborator"].map(|role| &line[format!("{role}/grad_norm")]);
        assert_eq!(norms[0], norms[1], "there is one update");
    }
    let [before, after] = ["model", "run/agents/shared"].map(|name| load(&dir.path(name)));
    assert_ne!(weight_bits(&before), weight_bits(&after));
    dir.succeed(&["eval", "--team", "run"]);
}

/// On one thread, code that waits for another thread would never end.
#[test]
fn teams_of_one_model_train_on_one_thread() {
    let dir = test_dir();
    for (run, changes) in [
        ("shared", r#"team=Shared("model")"#),
        ("single", "environment=SingleAgent(Tldr)"),
    ] {
        let mut train = vec!["train", "recipe.ron", "--run-dir", run, "--steps", "1"];
        train.extend(["--set", r#"team=Copies("model")"#, "--set", changes]);
        let mut command = dir.command(&train);
        let outcome = command.env("RAYON_NUM_THREADS", "1").output().unwrap();
        assert!(outcome.status.success(), "{run}: {outcome:?}");
        assert_eq!(metrics(&dir, run).len(), 1);
    }
}

#[test]
fn adapters_train_and_every_command_accepts_them_as_a_model() {
    let dir = test_dir();
    let lora = "fine_tuning=Lora(rank: 4, alpha: 8, targets: [Query, Value, Down])";
    let changes = [
        lora,
        "updates.activations=Recompute",
        "updates.learning_rate=1e-2",
    ];
    train(&dir, "run", &changes);
    let base = load(&dir.path("model"));
    let ids = [1, 70, 80, 90];
    let logits = |model: &LanguageModel| values(sequence_logits(model, &ids).unwrap());
    for role in ["summarizer", "elaborator"] {
        let path = dir.path("run/agents").join(role);
        let adapted = load(&path);
        assert_eq!(adapted.lora().unwrap().rank, 4);
        assert_ne!(logits(&adapted), logits(&base), "{role} learned");
        dir.succeed(&["generate", "--model", text(&path), "--prompt", "the cat"]);
    }
    dir.succeed(&["eval", "--team", "run"]);

    let adapters = "run/agents/summarizer";
    dir.succeed(&["models", "merge", adapters, "whole"]);
    let [whole, adapted] = ["whole", adapters].map(|name| logits(&load(&dir.path(name))));
    for (value, expected) in whole.iter().zip(adapted) {
        assert!((value - expected).abs() < 1e-5, "{value} is not {expected}");
    }
    let again = ["models", "merge", "whole", "other-whole"];
    dir.refuse(&again, &["whole has no adapters"]);
    let onto = ["models", "merge", adapters, "whole"];
    dir.refuse(&onto, &["whole already exists"]);

    // Training continues with whole models, but adapters on adapters are refused.
    let team = r#"team=Each(["run/agents/summarizer", "run/agents/elaborator"])"#;
    train(&dir, "on", &[team, "steps=1"]);
    let whole = ModelFiles::open(&dir.path("on/agents/summarizer")).unwrap();
    assert!(whole.adapter.is_none());
    let again = ["train", "recipe.ron", "--set", team, "--set", lora];
    let expected = [
        "already has low-rank adapters: merge them",
        "`models merge`",
    ];
    dir.refuse(&again, &expected);
}

#[test]
fn recomputed_activations_give_the_same_training() {
    let dir = test_dir();
    for (run, activations) in [("keep", "Keep"), ("again", "Recompute")] {
        train(&dir, run, &[&format!("updates.activations={activations}")]);
    }
    let returns = |run| -> Vec<f64> {
        let lines = metrics(&dir, run).into_iter();
        lines.map(|line| line["return"].as_f64().unwrap()).collect()
    };
    assert_eq!(returns("keep"), returns("again"));
}
