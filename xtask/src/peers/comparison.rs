//! The parts of the comparison. Each measures ours, theirs, and ours again, which shows whether the machine changed
//! its speed meanwhile.

use std::{ffi::OsString, path::PathBuf};

use anyhow::{Result, ensure};

use super::{
    ours::{Benchmarks, Programs},
    precision::{Device, Precision},
    table::Row,
    theirs::Peers,
};
use crate::process::say;

/// A part of the comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Part {
    /// A training step, beside comlrl.
    Step,
    /// Decoding, beside transformers.
    Decode,
    /// Forward and backward pass, beside transformers.
    Score,
    /// Decoding, beside llama.cpp.
    Llamacpp,
    /// What bounds the speed of everything: PyTorch's matrix products and reading of memory.
    Limits,
}

/// How much is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effort {
    Full,
    Quick,
}

impl Effort {
    /// Training steps, of which the median is taken.
    fn steps(self) -> usize {
        match self {
            Self::Full => 5,
            Self::Quick => 2,
        }
    }

    /// The option of the peers' scripts.
    fn repeats(self) -> [OsString; 2] {
        let repeats = match self {
            Self::Full => "7",
            Self::Quick => "2",
        };
        ["--repeats".into(), repeats.into()]
    }

    /// The options of criterion.
    fn criterion(self) -> &'static [&'static str] {
        match self {
            Self::Full => &[],
            Self::Quick => &["--quick"],
        }
    }
}

/// The measurements of a training step: the field that both programs print, what it is, and its unit.
const STEP: [(&str, &str, &str); 3] = [
    ("seconds_per_step", "training step", "s"),
    ("generation_seconds_per_step", "its generation", "s"),
    ("update_seconds_per_step", "its updates", "s"),
];

/// The memory of a training step, in the same way.
fn step_memory(device: Device) -> (&'static str, &'static str, &'static str) {
    match device {
        Device::Cpu => ("peak_rss_gb", "its peak memory", "GB"),
        Device::Cuda => ("device_memory_gb", "memory that its allocator holds", "GB"),
    }
}

/// A peer that decodes.
struct Decoder {
    name: &'static str,
    script: &'static str,
    /// How many rows are decoded at once.
    rows: &'static [usize],
}

const TRANSFORMERS: Decoder = Decoder {
    name: "transformers",
    script: "transformers_decode.py",
    rows: &[1, 4, 8, 16, 32],
};

const LLAMACPP: Decoder = Decoder {
    name: "llama.cpp",
    script: "llamacpp_decode.py",
    rows: &[1, 8, 16],
};

/// What measures, and on which model.
#[derive(Debug)]
pub(super) struct Comparison {
    pub(super) programs: Programs,
    pub(super) peers: Peers,
    /// The default model, as a Hugging Face directory.
    pub(super) model: PathBuf,
    pub(super) device: Device,
    pub(super) effort: Effort,
}

impl Comparison {
    /// Measures one part in one precision.
    ///
    /// # Errors
    /// If a program fails, or ours and theirs did not do the same work.
    pub(super) fn compare(&self, part: Part, precision: Precision) -> Result<Vec<Row>> {
        match part {
            Part::Step => self.step(precision),
            Part::Decode => self.decode(precision, &TRANSFORMERS, self.on_device(precision)),
            Part::Score => self.score(precision),
            Part::Llamacpp => self.decode(precision, &LLAMACPP, vec![self.peers.gguf()?.into()]),
            Part::Limits => self.limits(precision),
        }
    }

    fn step(&self, precision: Precision) -> Result<Vec<Row>> {
        let steps = self.effort.steps();
        let mut arguments = self.on_device(precision);
        arguments.extend(["--steps".into(), steps.to_string().into()]);
        let (ours, theirs) = in_turn(
            &format!("training step, {precision}"),
            "comlrl",
            || self.programs.step(&self.model, precision, steps),
            || self.peers.measure("comlrl_step.py", &arguments),
        )?;
        let same: &[&str] = match self.device {
            Device::Cpu => &["response_tokens_per_step", "threads"],
            Device::Cuda => &["response_tokens_per_step"],
        };
        for &field in same {
            let (ours, theirs) = (&ours[0][field], &theirs[field]);
            ensure!(
                ours == theirs,
                "the work differs: `{field}` is {ours} for polyphony and {theirs} for comlrl"
            );
        }
        let row = |(field, work, unit)| Row {
            name: format!("step/{precision}/{field}"),
            work: format!("{work}, {precision}"),
            unit,
            peer: "comlrl",
            ours: ours.each_ref().map(|ours| ours[field].as_f64()),
            theirs: theirs[field].as_f64(),
        };
        let fields = STEP.into_iter().chain([step_memory(self.device)]);
        Ok(fields.map(row).collect())
    }

    fn decode(
        &self,
        precision: Precision,
        peer: &Decoder,
        mut arguments: Vec<OsString>,
    ) -> Result<Vec<Row>> {
        let rows: Vec<String> = peer.rows.iter().map(usize::to_string).collect();
        arguments.push("--rows".into());
        arguments.extend(rows.iter().map(OsString::from));
        arguments.extend(self.effort.repeats());
        let filter = format!("^decode/smollm2/{precision}/({})$", rows.join("|"));
        let (ours, theirs) = in_turn(
            &format!("decoding, {precision}"),
            peer.name,
            || self.benchmarks(&filter),
            || self.peers.measure(peer.script, &arguments),
        )?;
        report_missing(&filter, &ours);
        let row = |count: &usize| {
            let benchmark = format!("decode/smollm2/{precision}/{count}");
            // One pass decodes one token of each row.
            let milliseconds = |ours: &Benchmarks| {
                let ours = ours.get(&benchmark)?;
                Some(1e3 * ours.seconds * *count as f64 / ours.elements)
            };
            let theirs = theirs["seconds_per_pass"][count.to_string()].as_f64();
            let plural = if *count == 1 { "" } else { "s" };
            Row {
                name: format!("decode/{precision}/{count}/{}", peer.name),
                work: format!("decoding pass, {count} row{plural}, {precision}"),
                unit: "ms",
                peer: peer.name,
                ours: ours.each_ref().map(milliseconds),
                theirs: theirs.map(|seconds| 1e3 * seconds),
            }
        };
        Ok(peer.rows.iter().map(row).collect())
    }

    fn score(&self, precision: Precision) -> Result<Vec<Row>> {
        let benchmark = format!("score/smollm2/{precision}/4x64");
        let filter = format!("^{benchmark}$");
        let mut arguments = self.model_option(precision);
        arguments.extend(self.effort.repeats());
        let (ours, theirs) = in_turn(
            &format!("forward and backward pass, {precision}"),
            "transformers",
            || self.benchmarks(&filter),
            || self.peers.measure("transformers_score.py", &arguments),
        )?;
        report_missing(&filter, &ours);
        let ours = ours.each_ref().map(|ours| ours.get(&benchmark));
        let tokens = theirs["tokens"].as_f64();
        for ours in ours.iter().flatten() {
            ensure!(
                Some(ours.elements) == tokens,
                "the work differs: polyphony packs {} tokens, and transformers {}",
                ours.elements,
                theirs["tokens"]
            );
        }
        Ok(vec![Row {
            name: format!("score/{precision}"),
            work: format!(
                "forward and backward pass, {} tokens, {precision}",
                theirs["tokens"]
            ),
            unit: "s",
            peer: "transformers",
            ours: ours.map(|ours| Some(ours?.seconds)),
            theirs: theirs["seconds"].as_f64(),
        }])
    }

    fn limits(&self, precision: Precision) -> Result<Vec<Row>> {
        say(format_args!("limits, {precision}: torch"));
        let mut arguments = vec!["--precision".into(), precision.to_string().into()];
        arguments.extend(self.effort.repeats());
        let theirs = self.peers.measure("torch_limits.py", &arguments)?;
        let row = |name: &str, work: String, unit, field: &str| Row {
            name: format!("limits/{name}"),
            work,
            unit,
            peer: "torch",
            ours: [None, None],
            theirs: theirs[field].as_f64(),
        };
        let mut rows = vec![row(
            &format!("product/{precision}"),
            format!("matrix product, {precision}"),
            "GFLOP/s",
            "product_gflop_per_second",
        )];
        // Reading takes as long in every precision.
        if precision == Precision::F32 {
            rows.push(row(
                "read",
                "reading memory".to_owned(),
                "GB/s",
                "read_gb_per_second",
            ));
        }
        Ok(rows)
    }

    /// The arguments of a peer's script that loads the model.
    fn model_option(&self, precision: Precision) -> Vec<OsString> {
        let precision = precision.to_string();
        vec![
            self.model.clone().into(),
            "--precision".into(),
            precision.into(),
        ]
    }

    /// As [`Self::model_option`], for a script that can use the device.
    fn on_device(&self, precision: Precision) -> Vec<OsString> {
        let mut arguments = self.model_option(precision);
        arguments.extend(["--device".into(), self.device.to_string().into()]);
        arguments
    }

    fn benchmarks(&self, filter: &str) -> Result<Benchmarks> {
        self.programs.benchmarks(filter, self.effort.criterion())
    }
}

/// Reports benchmarks that do not exist. That is not an error: their figures are dashes.
fn report_missing(filter: &str, found: &[Benchmarks; 2]) {
    if found[0].is_empty() {
        say(format_args!(
            "polyphony-model has no benchmark that matches `{filter}`"
        ));
    }
}

/// Measures ours, theirs, and ours again.
fn in_turn<O, T>(
    work: &str,
    peer: &str,
    ours: impl Fn() -> Result<O>,
    theirs: impl FnOnce() -> Result<T>,
) -> Result<([O; 2], T)> {
    say(format_args!("{work}: polyphony"));
    let before = ours()?;
    say(format_args!("{work}: {peer}"));
    let theirs = theirs()?;
    say(format_args!("{work}: polyphony again"));
    Ok(([before, ours()?], theirs))
}
