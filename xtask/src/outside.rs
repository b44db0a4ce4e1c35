//! Tests a package outside of the workspace, such as a user would write: copies the package to another
//! folder, builds it there, and runs its program with the package's own environment and algorithm.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use cargo_metadata::MetadataCommand;

use crate::{mpi, process};

/// The folder of the package in the checkout.
const PACKAGE: &str = "docs/examples/number-plate";

/// Overrides that shorten the package's recipe for a tiny model. The team is added later.
const SHORT: [&str; 8] = [
    "--set",
    "evaluation.samples=1",
    "--set",
    "updates.learning_rate=1e-3",
    "--set",
    "checkpoints.every=2",
    "--set",
    "checkpoints.keep=9",
];

/// Packages for which the workspace's tools and benchmarks turn on more features. With the same features
/// here, cargo does not build these packages and burn, which depends on them, a second time. This saves six
/// minutes of a first run.
const SHARED_FEATURES: &str = r#"[dependencies]
ciborium = "0.2"
serde_core = "1"
serde_json = { version = "1", features = ["unbounded_depth"] }
"#;

/// The number of steps of a run.
const STEPS: usize = 6;

/// Builds the package in a separate folder and runs it there.
///
/// # Errors
/// If a command fails, or its results are not as expected.
pub(crate) fn run() -> Result<()> {
    let metadata = MetadataCommand::new().exec()?;
    let root = metadata.workspace_root.as_std_path();
    let folder = tempfile::tempdir()?;
    let package = folder.path().join("mine");
    copy(&root.join(PACKAGE), &package)?;
    point_at(&package.join("Cargo.toml"), root)?;
    // The copied lock file gives the same versions as here, without a network.
    fs::copy(root.join("Cargo.lock"), package.join("Cargo.lock"))?;
    // The target folder of the workspace already contains most dependencies.
    let target = metadata.target_directory.as_std_path();
    let build = |what: &[&str]| {
        let mut cargo = process::cargo();
        cargo.args(what).arg("--offline").current_dir(&package);
        process::run(cargo.env("CARGO_TARGET_DIR", target))
    };
    let features = mpi::features();
    build(&[&["test"][..], &features].concat())?;
    build(&[&["build"][..], &features].concat())?;
    let trial = Trial {
        program: target.join("debug/number-plate"),
        folder: folder.path().to_owned(),
    };
    let model = tiny_model(root, folder.path())?;
    trial.check(&model)
}

/// Copies a folder with everything in it.
fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| format!("reading {}", from.display()))? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        match entry.file_type()?.is_dir() {
            true if entry.file_name() == "target" => {}
            true => copy(&entry.path(), &target)?,
            false => {
                fs::copy(entry.path(), target)?;
            }
        }
    }
    Ok(())
}

/// Makes the path dependencies of a manifest lead to the checkout, and adds [`SHARED_FEATURES`].
fn point_at(manifest: &Path, root: &Path) -> Result<()> {
    let text = fs::read_to_string(manifest)?;
    let crates = format!("path = \"{}/crates/", root.display());
    let changed = text.replace("path = \"../../../crates/", &crates);
    ensure!(
        changed != text,
        "{} has no path to the crates",
        manifest.display()
    );
    let extended = changed.replacen("[dependencies]\n", SHARED_FEATURES, 1);
    ensure!(
        extended != changed,
        "{} has no section [dependencies]",
        manifest.display()
    );
    let changed = extended;
    Ok(fs::write(manifest, changed)?)
}

/// A model with random weights, made of fixtures.
fn tiny_model(root: &Path, folder: &Path) -> Result<PathBuf> {
    let model = folder.join("tiny");
    fs::create_dir(&model)?;
    let fixtures = root.join("crates/polyphony-model/fixtures");
    for file in [
        "tiny-llama/config.json",
        "tiny-llama/model.safetensors",
        "tiny-chat/tokenizer.json",
        "tiny-chat/tokenizer_config.json",
        "tiny-chat/chat_template.jinja",
    ] {
        let from = fixtures.join(file);
        fs::copy(&from, model.join(from.file_name().unwrap_or_default()))?;
    }
    // The tokenizer needs about one token per character of an instruction, so the context must be long.
    let config = model.join("config.json");
    let text = fs::read_to_string(&config)?;
    let changed = text.replace(
        "\"max_position_embeddings\": 128",
        "\"max_position_embeddings\": 2048",
    );
    ensure!(
        changed != text,
        "the context of the tiny model does not have 128 tokens"
    );
    fs::write(&config, changed)?;
    Ok(model)
}

/// The program of the package, and the folder in which it is tested.
struct Trial {
    program: PathBuf,
    folder: PathBuf,
}

impl Trial {
    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(words).current_dir(&self.folder);
        command
    }

    fn succeed(&self, words: &[&str]) -> Result<String> {
        let output = process::output(&mut self.command(words))?;
        Ok(String::from_utf8(output)?)
    }

    fn read(&self, path: &str) -> Result<Vec<u8>> {
        fs::read(self.folder.join(path)).with_context(|| format!("reading {path}"))
    }

    fn text(&self, path: &str) -> Result<String> {
        Ok(String::from_utf8(self.read(path)?)?)
    }

    /// Does everything that a user of the package would do.
    fn check(&self, model: &Path) -> Result<()> {
        let team = format!("team=Copies({:?})", model.display().to_string());
        let steps = STEPS.to_string();
        let train = |run: &'static str| {
            let recipe = ["train", "plates", "--run-dir", run, "--steps", &steps];
            let words = [&recipe[..], &SHORT, &["--set", &team]].concat();
            words
                .into_iter()
                .map(str::to_owned)
                .collect::<Vec<String>>()
        };
        let words = train("whole");
        self.succeed(&words.iter().map(String::as_str).collect::<Vec<_>>())?;
        self.check_metric()?;
        if mpi::missing().is_none() {
            self.check_ranks(&train("apart"))?;
        }
        let words = train("killed");
        self.kill_and_resume(&words.iter().map(String::as_str).collect::<Vec<_>>())?;
        self.succeed(&["eval", "--team", "whole", "--run-dir", "evaluated"])?;
        self.succeed(&[
            "baseline",
            "pipeline",
            "plates",
            "--set",
            &team,
            "--run-dir",
            "pipeline",
        ])?;
        self.succeed(&["compare", "whole", "evaluated", "pipeline"])?;
        self.succeed(&["report", "whole", "pipeline", "-o", "page.html"])?;
        let page = self.text("page.html")?;
        for part in ["rank_correlation", "How well ranks agree with credits"] {
            ensure!(page.contains(part), "the report lacks `{part}`");
        }
        self.check_misspelt()
    }

    /// Checks that the metric of the package's algorithm is in all files with metrics.
    fn check_metric(&self) -> Result<()> {
        for (file, part) in [
            ("whole/metrics.jsonl", "/rank_correlation\":"),
            ("whole/metrics.json", "How well ranks agree with credits"),
        ] {
            ensure!(self.text(file)?.contains(part), "{file} lacks `{part}`");
        }
        let events = self.read("whole/tensorboard/events.out.tfevents.polyphony")?;
        let name = b"letters/rank_correlation";
        ensure!(
            events.windows(name.len()).any(|window| window == name),
            "TensorBoard's file lacks the metric"
        );
        Ok(())
    }

    /// Checks that the program, which knows nothing of ranks, does the same on two of them.
    fn check_ranks(&self, train: &[String]) -> Result<()> {
        let mut launcher = Command::new(mpi::LAUNCHER);
        launcher
            .args(["-n", "2"])
            .arg(&self.program)
            .args(train)
            .current_dir(&self.folder)
            // CI may have no other user than root, and fewer processors than ranks.
            .env("OMPI_ALLOW_RUN_AS_ROOT", "1")
            .env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")
            .env("OMPI_MCA_rmaps_base_oversubscribe", "1");
        process::captured(&mut launcher)?;
        for file in [
            "rollouts.jsonl",
            "agents/letters/model.safetensors",
            "agents/digits/model.safetensors",
        ] {
            let contents = |run: &str| self.read(&format!("{run}/{file}"));
            ensure!(
                contents("whole")? == contents("apart")?,
                "{file} differs on two ranks"
            );
        }
        let metrics = self.text("apart/metrics.jsonl")?;
        for part in ["letters/rank_correlation", "digits/rank_correlation"] {
            ensure!(
                metrics.contains(part),
                "the metrics of two ranks lack `{part}`"
            );
        }
        Ok(())
    }

    /// Checks that a run that is killed after a few steps and then resumed leaves the same files as a run
    /// without a stop.
    fn kill_and_resume(&self, train: &[&str]) -> Result<()> {
        let mut running = self.command(train).stderr(Stdio::null()).spawn()?;
        let metrics = self.folder.join("killed/metrics.jsonl");
        let done = || {
            let text = fs::read(&metrics).unwrap_or_default();
            text.iter().filter(|byte| **byte == b'\n').count()
        };
        while done() < STEPS / 2 && running.try_wait()?.is_none() {
            std::thread::yield_now();
        }
        running.kill()?;
        running.wait()?;
        // The run may have been complete when it was killed.
        let outcome = self.command(&["resume", "killed"]).output()?;
        let log = String::from_utf8_lossy(&outcome.stderr);
        ensure!(
            outcome.status.success() || log.contains("is complete"),
            "{log}"
        );
        let newest = format!("checkpoints/step-{STEPS:06}");
        for file in [
            "rollouts.jsonl".to_owned(),
            format!("{newest}/algorithm.safetensors"),
            format!("{newest}/agent-letters.safetensors"),
            "agents/digits/model.safetensors".to_owned(),
        ] {
            let contents = |run: &str| self.read(&format!("{run}/{file}"));
            ensure!(
                contents("whole")? == contents("killed")?,
                "{file} differs after a kill"
            );
        }
        Ok(())
    }

    /// Checks that an error about a misspelt key or algorithm of the package suggests the nearest known one.
    fn check_misspelt(&self) -> Result<()> {
        for (change, expected) in [
            ("environment.digitz=3", "did you mean `digits`?"),
            (
                "environment=NumberPlate(digitz: 3)",
                "did you mean `digits`?",
            ),
            ("algorithm=RankBazed()", "did you mean `RankBased`?"),
        ] {
            let outcome = self
                .command(&["train", "plates", "--set", change])
                .output()?;
            let log = String::from_utf8_lossy(&outcome.stderr);
            ensure!(
                !outcome.status.success() && log.contains(expected),
                "--set {change}: {log}\nlacks: {expected}"
            );
        }
        Ok(())
    }
}
