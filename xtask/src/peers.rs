//! `cargo xtask compare-peers`: times Polyphony beside PyTorch and llama.cpp on this machine.
//!
//! The peers are installed once, into Polyphony's cache. Then everything is measured one after the other, by the
//! scripts in `xtask/peers`, by `polyphony bench` and by the benchmarks of `polyphony-model`.

use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail, ensure};
use cargo_metadata::MetadataCommand;
use clap::ValueEnum as _;
use serde_json::{Value, json};

use crate::process::say;

mod comparison;
mod install;
mod machine;
mod ours;
mod precision;
mod table;
mod theirs;

use self::{
    comparison::{Comparison, Effort, Part},
    install::Environment,
    machine::Machine,
    ours::Programs,
    precision::{Device, Precision},
    table::Row,
    theirs::Peers,
};

/// What to compare, and where to write the figures.
#[derive(Clone, Debug, PartialEq, Eq, clap::Args)]
pub(crate) struct Plan {
    /// Compare only these parts, separated by commas.
    #[arg(long, value_name = "PARTS", value_enum, value_delimiter = ',')]
    only: Vec<Part>,
    /// Let both sides compute on this device. On cuda, only training steps and decoding are compared.
    #[arg(long, value_enum, default_value_t = Device::Cpu)]
    device: Device,
    /// Measure less often, to see that everything works. The figures vary more.
    #[arg(long)]
    quick: bool,
    /// Also write the figures to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Use this Python, which has the peers already, instead of installing them.
    #[arg(long, value_name = "FILE")]
    python: Option<PathBuf>,
}

/// Measures everything and prints a table.
///
/// # Errors
/// If a program or a peer cannot be built or installed, or a measurement fails. Other measurements are made and
/// printed nevertheless.
pub(crate) fn run(plan: &Plan) -> Result<()> {
    let work = plan.work(&Precision::of(plan.device))?;
    if let Some(file) = &plan.json {
        check_folder(file)?;
    }
    let metadata = MetadataCommand::new().no_deps().exec();
    let metadata = metadata.context("reading `cargo metadata`")?;
    let cache = install::folder()?;
    let _lock = install::lock(&cache)?;
    let (python, advice) = plan.python(&cache)?;
    let peers = Peers {
        python,
        scripts: metadata.workspace_root.join("xtask/peers").into(),
        cache,
        advice,
    };
    let mut versions = peers.versions()?;
    versions["polyphony"] = json!(machine::commit());
    let programs = Programs::build(plan.device)?;
    let comparison = Comparison {
        model: programs.model()?,
        programs,
        peers,
        device: plan.device,
        effort: match plan.quick {
            true => Effort::Quick,
            false => Effort::Full,
        },
    };
    let machine = Machine::observe()?;

    let mut rows = Vec::new();
    let mut failed = Vec::new();
    for (part, precision) in work {
        match comparison.compare(part, precision) {
            Ok(measured) => rows.extend(measured),
            Err(error) => {
                let name = format!("{} in {precision}", part_name(part));
                say(format_args!("{name} was not compared: {error:#}"));
                failed.push(name);
            }
        }
    }
    let report = Report {
        machine,
        device: plan.device,
        versions,
        rows,
    };
    report.print().context("writing the table")?;
    if let Some(file) = &plan.json {
        let text = format!("{:#}\n", report.json(plan.quick));
        fs::write(file, text).with_context(|| format!("writing {}", file.display()))?;
    }
    ensure!(
        failed.is_empty(),
        "not compared, for the reasons above: {}",
        failed.join(", ")
    );
    Ok(())
}

impl Plan {
    /// The parts to compare, in each precision.
    fn work(&self, precisions: &[Precision]) -> Result<Vec<(Part, Precision)>> {
        let is_chosen = |part: &Part| self.only.is_empty() || self.only.contains(part);
        let parts = Part::value_variants().iter().filter(|part| is_chosen(part));
        let work =
            parts.flat_map(|part| precisions.iter().map(move |&precision| (*part, precision)));
        let is_possible = |(part, precision): &(Part, Precision)| match (self.device, part) {
            // llama.cpp has its copy of the model in bf16.
            (Device::Cpu, Part::Llamacpp) => *precision == Precision::Bf16,
            (Device::Cpu, _) | (Device::Cuda, Part::Step | Part::Decode) => true,
            (Device::Cuda, _) => false,
        };
        let work: Vec<_> = work.filter(is_possible).collect();
        if !precisions.contains(&Precision::Bf16) {
            say(format_args!(
                "this processor has no AVX512-BF16, so bf16 and llama.cpp are left out"
            ));
        }
        ensure!(!work.is_empty(), "there is nothing to compare");
        Ok(work)
    }

    /// The Python that has the peers, and what to do if a package is missing there. The peers are installed if
    /// needed.
    fn python(&self, cache: &Path) -> Result<(PathBuf, String)> {
        if let Some(python) = &self.python {
            let advice = format!(
                "{} needs the packages of xtask/src/peers/install.rs",
                python.display()
            );
            return Ok((python.clone(), advice));
        }
        let environment = Environment {
            python: "python3",
            // PyTorch has one build for each.
            folder: cache.join(match self.device {
                Device::Cpu => "venv",
                Device::Cuda => "venv-cuda",
            }),
            packages: &install::peers(self.device),
        };
        let advice = format!(
            "if a package is missing or damaged, remove {} to install all again",
            environment.folder.display()
        );
        Ok((environment.obtain()?, advice))
    }
}

fn part_name(part: Part) -> String {
    let value = part.to_possible_value();
    value.map_or_else(String::new, |value| value.get_name().to_owned())
}

/// Fails if the file's folder does not exist: otherwise that would be noticed after all measurements.
fn check_folder(file: &Path) -> Result<()> {
    let folder = file
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    if folder.is_some_and(|folder| !folder.is_dir()) || file.is_dir() {
        bail!(
            "{} cannot be written: name a file in a folder that exists",
            file.display()
        );
    }
    Ok(())
}

/// All figures, and what they belong to.
struct Report {
    machine: Machine,
    device: Device,
    /// The versions by name, as an object.
    versions: Value,
    rows: Vec<Row>,
}

impl Report {
    fn print(&self) -> io::Result<()> {
        let mut out = io::stdout().lock();
        let Machine {
            date,
            processor,
            threads,
            ..
        } = &self.machine;
        let device = self.device;
        writeln!(
            out,
            "{date} UTC, on {device}, {processor}, {threads} threads"
        )?;
        let versions = self.versions.as_object().into_iter().flatten();
        let versions = versions.map(|(name, version)| {
            format!(
                "{name} {}",
                version.as_str().unwrap_or("of an unknown version")
            )
        });
        writeln!(out, "{}\n", versions.collect::<Vec<_>>().join(", "))?;
        if self.rows.is_empty() {
            return Ok(());
        }
        write!(out, "{}", table::markdown(&self.rows))?;
        writeln!(
            out,
            "\nA ratio below 1 means that Polyphony needs less time or memory."
        )
    }

    fn json(&self, quick: bool) -> Value {
        json!({
            "date": self.machine.date,
            "processor": self.machine.processor,
            "threads": self.machine.threads,
            "device": self.device.to_string(),
            "busy_fraction": self.machine.busy_fraction,
            "quick": quick,
            "versions": self.versions,
            "rows": table::json(&self.rows),
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        plan: Plan,
    }

    fn plan(line: &str) -> Plan {
        let words = ["compare-peers"].into_iter().chain(line.split_whitespace());
        Line::try_parse_from(words).unwrap().plan
    }

    #[test]
    fn parts_are_chosen_and_ordered() {
        let both = [Precision::F32, Precision::Bf16];
        for (line, precisions, expected) in [
            (
                "--only score,step",
                &both[..],
                "step f32, step bf16, score f32, score bf16",
            ),
            ("--only llamacpp", &both, "llamacpp bf16"),
            (
                "",
                &both[..1],
                "step f32, decode f32, score f32, limits f32",
            ),
            (
                "--device cuda",
                &both,
                "step f32, step bf16, decode f32, decode bf16",
            ),
        ] {
            let work = plan(line).work(precisions).unwrap();
            let names = work
                .iter()
                .map(|(part, precision)| format!("{} {precision}", part_name(*part)));
            assert_eq!(names.collect::<Vec<_>>().join(", "), expected, "{line}");
        }
        assert!(plan("--only llamacpp").work(&both[..1]).is_err());
        assert!(plan("--device cuda --only score").work(&both).is_err());
    }

    #[test]
    fn a_json_file_that_cannot_be_written_is_refused_first() {
        let folder = tempfile::tempdir().unwrap();
        for (file, is_allowed) in [
            (PathBuf::from("peers.json"), true),
            (folder.path().join("peers.json"), true),
            (folder.path().to_owned(), false),
            (folder.path().join("absent/peers.json"), false),
        ] {
            assert_eq!(
                check_folder(&file).is_ok(),
                is_allowed,
                "{}",
                file.display()
            );
        }
    }
}
