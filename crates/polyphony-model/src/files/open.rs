//! Opens a model; the path determines the format of its files.

use std::path::Path;

use super::{ModelFiles, adapter, gguf, huggingface};
use crate::error::ModelError;

impl ModelFiles {
    /// Opens a Hugging Face directory, a `.gguf` file, or a directory of adapters in PEFT's format. The base
    /// model of adapters is opened as well. Tokenizer and chat template beside adapters take precedence
    /// over those of the base model.
    ///
    /// # Errors
    /// If a required file is missing, unreadable or damaged, any part of the model is not supported,
    /// or the tokenizer does not fit the model's vocabulary.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        const EXPECTED: &str =
            "a directory with config.json and model.safetensors, or a .gguf file";
        let extension = path.extension().unwrap_or_default();
        let files = if path.join(adapter::CONFIG).exists() {
            let (adapter, base) = adapter::open(path)?;
            let mut files = Self::open(&base)?;
            files.adapter = Some(adapter);
            huggingface::read_tokenizer_and_template(&mut files, path)?;
            files
        } else if path.is_dir() {
            huggingface::open(path)?
        } else if extension.eq_ignore_ascii_case("gguf") {
            gguf::open(path)?
        } else if path.exists() {
            return Err(ModelError::Unsupported {
                path: path.to_owned(),
                what: "model file".to_owned(),
                given: extension.display().to_string(),
                supported: EXPECTED.to_owned(),
            });
        } else {
            return Err(ModelError::Missing {
                path: path.to_owned(),
                expected: EXPECTED.to_owned(),
            });
        };
        if let Some(tokenizer) = &files.tokenizer {
            tokenizer.check_fits(files.config.vocab_size)?;
        }
        Ok(files)
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use serde_json::{Value, json};

    use super::*;
    use crate::files::{Message, MessageRole, TensorSpec, encode_conversation, save};

    fn fixture(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("fixtures")
            .join(name)
    }

    /// A directory with the weights of `tiny-llama` and the tokenizer and template of `tiny-chat`.
    fn tiny_model() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (source, name) in [
            ("tiny-llama", "config.json"),
            ("tiny-llama", "model.safetensors"),
            ("tiny-chat", "tokenizer.json"),
            ("tiny-chat", "tokenizer_config.json"),
            ("tiny-chat", "chat_template.jinja"),
        ] {
            std::fs::copy(fixture(source).join(name), folder.path().join(name)).unwrap();
        }
        folder
    }

    fn write(folder: &tempfile::TempDir, name: &str, contents: impl ToString) {
        std::fs::write(folder.path().join(name), contents.to_string()).unwrap();
    }

    fn read_json(path: &Path) -> Value {
        serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
    }

    #[test]
    fn weights_and_configuration_are_enough() {
        let files = ModelFiles::open(&fixture("tiny-llama")).unwrap();
        assert_eq!(files.config.layers, 3);
        assert_eq!(files.stop_tokens, [2]);
        assert!(files.tokenizer.is_none() && files.template.is_none());
        let embedding = files
            .weights
            .read("model.embed_tokens.weight", &[256, 64])
            .unwrap();
        assert_eq!(embedding.len(), 256 * 64);
    }

    #[test]
    fn every_file_is_used() {
        let folder = tiny_model();
        write(
            &folder,
            "generation_config.json",
            json!({"eos_token_id": [7, 2, 0]}),
        );
        let files = ModelFiles::open(folder.path()).unwrap();
        assert_eq!(files.stop_tokens, [0, 2, 7]);
        let messages = [Message::new(MessageRole::User, "the sky")];
        let (tokenizer, template) = (files.tokenizer.unwrap(), files.template.unwrap());
        let ids = encode_conversation(&tokenizer, &template, &messages).unwrap();
        assert_eq!(ids[..2], [1, 85], "<|im_start|>s");
    }

    #[test]
    fn a_template_may_sit_in_the_tokenizer_configuration() {
        let folder = tiny_model();
        write(
            &folder,
            "tokenizer_config.json",
            json!({"chat_template": "embedded"}),
        );
        let render = || {
            ModelFiles::open(folder.path())
                .unwrap()
                .template
                .unwrap()
                .render(&[], false)
        };
        assert_ne!(
            render().unwrap(),
            "embedded",
            "chat_template.jinja comes first"
        );
        std::fs::remove_file(folder.path().join("chat_template.jinja")).unwrap();
        assert_eq!(render().unwrap(), "embedded");
    }

    #[test]
    fn tokenizer_and_template_beside_adapters_take_precedence() {
        type Rows<'a> = &'a [&'a (&'a str, Value)];
        // The files beside the adapters; then the expected template text, stop tokens, and files of a
        // saved merged model. The base model has a template file and the stop token 2.
        let check =
            |beside: Rows<'_>, rendered: Option<&str>, stop_tokens: &[u32], saved: &[&str]| {
                let base = tiny_model();
                let mut config = read_json(&base.path().join("config.json"));
                config["eos_token_id"] = Value::Null;
                write(&base, "config.json", &config);
                write(&base, "chat_template.jinja", "base");
                let end = json!({"eos_token": "<|im_end|>"});
                write(&base, "tokenizer_config.json", &end);

                let folder = tempfile::tempdir().unwrap();
                let config = json!({"base_model_name_or_path": base.path()});
                write(&folder, adapter::CONFIG, &config);
                let factor = TensorSpec {
                    name: "base_model.model.model.layers.0.mlp.up_proj.lora_A.weight".to_owned(),
                    shape: vec![1],
                };
                let mut assets = ModelFiles::open(base.path()).unwrap().assets;
                assets.tokenizer = None;
                let weights = base.path().join("factors");
                save(&weights, &assets, &[factor], |_| Ok(vec![0.0])).unwrap();
                let weights = weights.join("model.safetensors");
                std::fs::copy(weights, folder.path().join(adapter::WEIGHTS)).unwrap();
                for (name, contents) in beside {
                    match contents.as_str() {
                        Some(text) => write(&folder, name, text),
                        None => write(&folder, name, contents),
                    }
                }

                let files = ModelFiles::open(folder.path()).unwrap();
                let template = files
                    .template
                    .map(|template| template.render(&[], false).unwrap());
                assert_eq!(template.as_deref(), rendered, "{beside:?}");
                assert_eq!(files.stop_tokens, stop_tokens, "{beside:?}");
                let beside_weights = files.assets.tokenizer_files();
                let names: Vec<&str> = beside_weights.iter().map(|(name, _)| *name).collect();
                assert_eq!(names, saved, "{beside:?}");
                for (name, contents) in beside.iter().filter(|(name, _)| *name == "tokenizer.json")
                {
                    let saved = beside_weights
                        .iter()
                        .find(|(saved, _)| saved == name)
                        .unwrap();
                    assert_eq!(
                        Some(saved.1.as_str()),
                        contents.as_str(),
                        "the tokenizer beside the adapters"
                    );
                }
            };
        const TOKENIZER: &str = "tokenizer.json";
        const CONFIG: &str = "tokenizer_config.json";
        const TEMPLATE: &str = "chat_template.jinja";
        let all = [TOKENIZER, CONFIG, TEMPLATE];
        let text = std::fs::read_to_string(fixture("tiny-chat").join(TOKENIZER)).unwrap();
        let tokenizer = (TOKENIZER, Value::from(format!("{text} ")));
        let end = (CONFIG, json!({"eos_token": "<|endoftext|>"}));
        let embedded = (
            CONFIG,
            json!({"chat_template": "embedded", "eos_token": null}),
        );
        let template = (TEMPLATE, Value::from("adapter"));

        check(&[], Some("base"), &[2], &all);
        check(&[&template], Some("adapter"), &[2], &all);
        check(&[&end], Some("base"), &[0], &all);
        check(&[&embedded], Some("embedded"), &[], &[TOKENIZER, CONFIG]);
        check(&[&embedded, &template], Some("adapter"), &[], &all);
        check(&[&tokenizer], None, &[2], &[TOKENIZER]);
        check(&[&tokenizer, &end, &template], Some("adapter"), &[0], &all);
    }

    #[test]
    fn tensors_that_transformers_ignores_are_ignored() {
        let folder = tiny_model();
        let tensor = |name: &str| TensorSpec {
            name: name.to_owned(),
            shape: vec![2],
        };
        let names = [
            "lm_head.weight",
            "model.layers.0.self_attn.rotary_emb.inv_freq",
            "other",
        ];
        let target = folder.path().join("saved");
        let assets = ModelFiles::open(folder.path()).unwrap().assets;
        save(&target, &assets, &names.map(tensor), |_| Ok(vec![0.0; 2])).unwrap();
        let weights = ModelFiles::open(&target).unwrap().weights;
        assert_eq!(weights.names().collect::<Vec<_>>(), ["other"]);
    }

    #[test]
    fn bad_directories_are_explained() {
        type Change = fn(&tempfile::TempDir);
        fn remove(folder: &tempfile::TempDir, name: &str) {
            std::fs::remove_file(folder.path().join(name)).unwrap();
        }
        let rows: [(Change, &str); 11] = [
            (
                |f| remove(f, "config.json"),
                "config.json does not exist: expected the configuration",
            ),
            (
                |f| remove(f, "model.safetensors"),
                "model.safetensors does not exist",
            ),
            (
                |f| {
                    remove(f, "model.safetensors");
                    write(f, "model.safetensors.index.json", "{}");
                },
                "model.safetensors.index.json is not valid JSON",
            ),
            (
                |f| write(f, "config.json", "{"),
                "config.json is not valid JSON",
            ),
            (
                |f| write(f, "model.safetensors", "short"),
                "model.safetensors is damaged",
            ),
            (
                |f| write(f, "tokenizer.json", "{}"),
                "tokenizer.json failed",
            ),
            (
                |f| write(f, "tokenizer_config.json", "?"),
                "tokenizer_config.json is not valid JSON",
            ),
            (
                |f| write(f, "chat_template.jinja", "{%"),
                "chat_template.jinja failed",
            ),
            (
                |f| write(f, "generation_config.json", r#"{"eos_token_id": [2, 256]}"#),
                "generation_config.json: `eos_token_id` is 256, but must be a token id below",
            ),
            (
                |f| {
                    let mut config = read_json(&f.path().join("config.json"));
                    config["eos_token_id"] = json!(null);
                    write(f, "config.json", config);
                    write(f, "tokenizer_config.json", r#"{"eos_token": "</s>"}"#);
                },
                "tokenizer_config.json: `eos_token` is \"</s>\", but must be a token of",
            ),
            (
                |f| {
                    let mut config = read_json(&f.path().join("config.json"));
                    config["vocab_size"] = json!(255);
                    write(f, "config.json", config);
                },
                "has id 255, but the model's vocabulary has 255 entries",
            ),
        ];
        for (change, expected) in rows {
            let folder = tiny_model();
            change(&folder);
            let message = ModelFiles::open(folder.path()).unwrap_err().to_string();
            assert!(message.contains(expected), "{message:?} lacks {expected:?}");
        }
    }

    #[test]
    fn paths_that_are_not_models_are_explained() {
        let folder = tiny_model();
        let rows = [
            (
                "nowhere",
                "nowhere does not exist: expected a directory with config.json",
            ),
            (
                "nowhere.gguf",
                "nowhere.gguf does not exist: expected a model as one GGUF file",
            ),
            (
                "model.safetensors",
                "model file `safetensors` is not supported; supported: a directory",
            ),
        ];
        for (name, expected) in rows {
            let message = ModelFiles::open(&folder.path().join(name))
                .unwrap_err()
                .to_string();
            assert!(message.contains(expected), "{message:?} lacks {expected:?}");
        }
    }

    #[test]
    fn responses_end_with_whatever_the_files_name() {
        let tokenizer_end = json!({"eos_token": "<|im_end|>"});
        let as_object = json!({"eos_token": {"content": "<|endoftext|>", "special": true}});
        // `eos_token_id` in config.json and generation_config.json, tokenizer_config.json.
        let rows = [
            (json!([2, 5]), json!([7, 5]), &tokenizer_end, vec![2, 5, 7]),
            (json!([5, 2]), json!(null), &tokenizer_end, vec![2, 5]),
            (json!(null), json!([9, 1, 9]), &as_object, vec![1, 9]),
            (json!(null), json!(null), &tokenizer_end, vec![2]),
            (json!([]), json!(null), &as_object, vec![0]),
            (
                json!(null),
                json!(null),
                &json!({"eos_token": null}),
                vec![],
            ),
            (json!(null), json!(null), &json!({}), vec![]),
        ];
        for (config, generation, tokenizer, expected) in rows {
            let folder = tiny_model();
            let mut json = read_json(&folder.path().join("config.json"));
            json["eos_token_id"] = config;
            write(&folder, "config.json", &json);
            let generation = json!({"eos_token_id": generation});
            write(&folder, "generation_config.json", &generation);
            write(&folder, "tokenizer_config.json", tokenizer);
            let given = ModelFiles::open(folder.path()).unwrap().stop_tokens;
            assert_eq!(given, expected, "{json} {generation} {tokenizer}");
        }
    }
}
