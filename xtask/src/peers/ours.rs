//! Polyphony, which is measured by `polyphony bench` and by the criterion benchmarks of `polyphony-model`.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use cargo_metadata::{Message, Target};
use serde_json::Value;

use super::precision::{Device, Precision};
use crate::process;

/// The programs, built in release mode.
#[derive(Debug)]
pub(super) struct Programs {
    polyphony: PathBuf,
    benchmarks: PathBuf,
    device: Device,
}

/// The median of one benchmark.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Benchmark {
    /// The time of one iteration.
    pub(super) seconds: f64,
    /// The elements that an iteration processes, such as tokens.
    pub(super) elements: f64,
}

/// The results of benchmarks by their names, such as `decode/smollm2/f32/8`.
pub(super) type Benchmarks = BTreeMap<String, Benchmark>;

impl Programs {
    /// Builds the programs. One call of cargo builds both, so that they share their dependencies.
    ///
    /// # Errors
    /// If the build fails.
    pub(super) fn build(device: Device) -> Result<Self> {
        let mut build = process::cargo();
        build.args(["build", "--release"]);
        build.args(["--package", "polyphony", "--bin", "polyphony"]);
        build.args(["--package", "polyphony-model", "--bench", "network"]);
        if device == Device::Cuda {
            build.args(["--features", "polyphony/cuda,polyphony-model/cuda"]);
        }
        build.arg("--message-format=json-render-diagnostics");
        let messages = process::output(&mut build)?;
        let program = |is_it: fn(&Target) -> bool| -> Result<PathBuf> {
            for message in Message::parse_stream(messages.as_slice()) {
                if let Message::CompilerArtifact(artifact) =
                    message.context("reading cargo's messages")?
                    && is_it(&artifact.target)
                    && let Some(program) = artifact.executable
                {
                    return Ok(program.into());
                }
            }
            bail!("cargo built no `polyphony` or no `network`")
        };
        Ok(Self {
            polyphony: program(|target| target.is_bin() && target.name == "polyphony")?,
            benchmarks: program(|target| target.is_bench() && target.name == "network")?,
            device,
        })
    }

    /// The directory of the default model, which is downloaded if needed.
    ///
    /// # Errors
    /// If it cannot be obtained.
    pub(super) fn model(&self) -> Result<PathBuf> {
        let mut fetch = Command::new(&self.polyphony);
        let printed = process::output(fetch.args(["models", "fetch", "smollm2-135m"]))?;
        let printed = String::from_utf8(printed).context("the model's path is not UTF-8")?;
        Ok(printed.trim_end().into())
    }

    /// What `polyphony bench` measures.
    ///
    /// # Errors
    /// If it fails. The message has the end of its output.
    pub(super) fn step(&self, model: &Path, precision: Precision, steps: usize) -> Result<Value> {
        let mut bench = Command::new(&self.polyphony);
        bench.args(["bench", "--model"]).arg(model);
        bench.args(["--precision", precision.setting()]);
        bench.args(["--steps", &steps.to_string()]);
        bench.args(["--device", &self.device.to_string()]);
        let printed = process::captured(&mut bench)?;
        serde_json::from_slice(&printed).context("reading the results of `polyphony bench`")
    }

    /// Runs the benchmarks whose names match a regular expression.
    ///
    /// # Errors
    /// If they fail. The message has the end of their output.
    pub(super) fn benchmarks(&self, filter: &str, options: &[&str]) -> Result<Benchmarks> {
        // A new folder, so that there are no results of earlier runs.
        let folder = tempfile::tempdir().context("creating a temporary folder")?;
        let mut benchmarks = Command::new(&self.benchmarks);
        benchmarks.arg("--bench").args(options).arg(filter);
        benchmarks.env("CRITERION_HOME", folder.path());
        benchmarks.env("POLYPHONY_BENCH_DEVICE", self.device.to_string());
        process::captured(&mut benchmarks)?;
        let mut found = Benchmarks::new();
        read_benchmarks(folder.path(), &mut found)?;
        Ok(found)
    }
}

/// Reads the results that criterion wrote into a folder and its subfolders. Those of the latest run are in folders
/// called `new`.
fn read_benchmarks(folder: &Path, found: &mut Benchmarks) -> Result<()> {
    let entries = fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.ends_with("new") {
            let (name, benchmark) = read_benchmark(&path)
                .with_context(|| format!("reading criterion's results in {}", path.display()))?;
            found.insert(name, benchmark);
        } else if path.is_dir() {
            read_benchmarks(&path, found)?;
        }
    }
    Ok(())
}

fn read_benchmark(folder: &Path) -> Result<(String, Benchmark)> {
    let read = |name: &str| -> Result<Value> {
        Ok(serde_json::from_slice(&fs::read(folder.join(name))?)?)
    };
    let (benchmark, estimates) = (read("benchmark.json")?, read("estimates.json")?);
    let name = benchmark["full_id"].as_str().context("there is no name")?;
    let nanoseconds = estimates["median"]["point_estimate"].as_f64();
    let elements = benchmark["throughput"]["Elements"].as_f64();
    let benchmark = Benchmark {
        seconds: nanoseconds.context("there is no median")? / 1e9,
        elements: elements.context("there is no number of elements")?,
    };
    Ok((name.to_owned(), benchmark))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn write(folder: &Path, benchmark: &Value, estimates: &Value) {
        fs::create_dir_all(folder).unwrap();
        for (name, value) in [("benchmark.json", benchmark), ("estimates.json", estimates)] {
            fs::write(folder.join(name), value.to_string()).unwrap();
        }
    }

    #[test]
    fn medians_of_the_latest_run_are_read_from_all_folders() {
        let folder = tempfile::tempdir().unwrap();
        let name =
            |name: &str, tokens: u32| json!({"full_id": name, "throughput": {"Elements": tokens}});
        let median =
            |nanoseconds: f64| json!({"median": {"point_estimate": nanoseconds}, "mean": {}});
        for (path, name, median) in [
            (
                "decode_smollm2_f32/8/new",
                name("decode/smollm2/f32/8", 128),
                median(2e9),
            ),
            (
                "decode_smollm2_f32/8/base",
                name("decode/smollm2/f32/8", 128),
                median(9e9),
            ),
            (
                "score_smollm2/bf16/4x64/new",
                name("score/smollm2/bf16/4x64", 402),
                median(5e8),
            ),
        ] {
            write(&folder.path().join(path), &name, &median);
        }
        fs::create_dir(folder.path().join("report")).unwrap();
        let mut found = Benchmarks::new();
        read_benchmarks(folder.path(), &mut found).unwrap();
        let benchmark = |seconds, elements| Benchmark { seconds, elements };
        assert_eq!(
            found,
            Benchmarks::from([
                ("decode/smollm2/f32/8".to_owned(), benchmark(2.0, 128.0)),
                ("score/smollm2/bf16/4x64".to_owned(), benchmark(0.5, 402.0)),
            ])
        );
    }

    #[test]
    fn damaged_results_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let results = folder.path().join("a/new");
        write(&results, &json!({"full_id": "a"}), &json!({"mean": {}}));
        let error = read_benchmarks(folder.path(), &mut Benchmarks::new()).unwrap_err();
        let error = format!("{error:#}");
        assert!(
            error.starts_with("reading criterion's results in "),
            "{error}"
        );
        assert!(error.ends_with("a/new: there is no median"), "{error}");
    }
}
