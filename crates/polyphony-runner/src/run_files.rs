//! Reading what a run has left.

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use crate::{
    evaluation::Evaluation,
    recipe::{Recipe, reader},
};

/// The resolved recipe.
pub(crate) const RECIPE: &str = "recipe.ron";
/// Where a team is judged outside of its training, the recipe of that.
pub(crate) const TRAINING: &str = "training.ron";
/// The steps that the saved agents have had.
pub(crate) const TRAINED: &str = "trained.ron";
/// One object a step.
pub(crate) const METRICS: &str = "metrics.jsonl";
/// What was said, one object a node.
pub(crate) const ROLLOUTS: &str = "rollouts.jsonl";
/// One object an evaluation.
pub(crate) const EVALUATIONS: &str = "evaluations.jsonl";
/// The same figures for TensorBoard, which knows such files by their names.
pub(crate) const EVENTS: &str = "tensorboard/events.out.tfevents.polyphony";

/// A run, a baseline or a kept evaluation as it lies on the disk.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub(crate) path: PathBuf,
    pub(crate) recipe: Recipe,
    /// The recipe that the team was trained by, where it was judged elsewhere.
    pub(crate) training: Option<Recipe>,
    /// The figures of every step; none of a baseline.
    pub(crate) metrics: Vec<Map<String, Value>>,
    pub(crate) evaluations: Vec<Evaluation>,
}

impl Run {
    /// Reads what is there by now.
    ///
    /// # Errors
    /// If the path is no run's directory, or its files cannot be read.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let training = path.join(TRAINING);
        let training = training.exists().then(|| training.display().to_string());
        Ok(Self {
            path: path.to_owned(),
            recipe: recipe(path, &[])?,
            training: training
                .map(|file| Recipe::load(Some(&file), &[]))
                .transpose()?,
            metrics: metrics(path)?,
            evaluations: evaluations(path)?,
        })
    }

    /// The first evaluation, and the last one if there are several.
    pub(crate) fn ends(&self) -> [Option<&Evaluation>; 2] {
        match self.evaluations.as_slice() {
            [] => [None, None],
            [only] => [Some(only), None],
            [first, .., last] => [Some(first), Some(last)],
        }
    }

    /// The evaluation after so many steps.
    pub(crate) fn evaluation_at(&self, step: usize) -> Option<&Evaluation> {
        let mut evaluations = self.evaluations.iter();
        evaluations.find(|evaluation| evaluation.step == Some(step))
    }

    /// A short name.
    pub(crate) fn name(&self) -> String {
        let name = self.path.file_name().unwrap_or(self.path.as_os_str());
        name.to_string_lossy().into_owned()
    }
}

/// What is left in `runs/name` by a shipped recipe with these changes, of which nothing has run.
#[cfg(test)]
pub(crate) fn fixture(name: &str, recipe: &str, changes: &[&str]) -> Run {
    let changes: Vec<String> = changes.iter().map(|change| (*change).to_owned()).collect();
    Run {
        path: Path::new("runs").join(name),
        recipe: Recipe::load(Some(recipe), &changes).unwrap(),
        training: None,
        metrics: Vec::new(),
        evaluations: Vec::new(),
    }
}

/// The training steps that a run's saved agents have had; `None` where that was not written down.
///
/// # Errors
/// If it was, but cannot be read.
pub(crate) fn trained_steps(run: &Path) -> Result<Option<usize>> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Trained {
        steps: usize,
    }
    let path = run.join(TRAINED);
    let text = match fs::read_to_string(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        text => text.with_context(|| format!("reading {}", path.display()))?,
    };
    let trained: Trained = reader()
        .from_str(&text)
        .with_context(|| format!("reading {}", path.display()))?;
    Ok(Some(trained.steps))
}

/// Whether a path is a run's directory, as opposed to a model's.
pub(crate) fn is_run(path: &Path) -> bool {
    path.join(RECIPE).is_file()
}

/// The training steps that the models of a recipe have had, as far as it is known: none, unless they are
/// agents that a run has saved.
pub(crate) fn steps_of_models(recipe: &Recipe) -> Option<usize> {
    let is_agent = |model: &&str| {
        let agents = Path::new(model).parent();
        let agents = agents.filter(|agents| agents.ends_with("agents"));
        agents.and_then(Path::parent).is_some_and(is_run)
    };
    let models = recipe.team.models(recipe.environment.roles().len());
    (!models.iter().any(is_agent)).then_some(0)
}

/// Refuses the directory of a baseline or of an evaluation that was kept, where no step is ever done.
/// `hint` is the end of the message.
///
/// # Errors
/// If it is one.
pub(crate) fn check_training_run(run: &Path, hint: &str) -> Result<()> {
    ensure!(
        run.join(METRICS).is_file(),
        "{} is no training run, but a baseline or a kept evaluation: {hint}",
        run.display()
    );
    Ok(())
}

/// The recipe of a run.
///
/// # Errors
/// If the path is no run's directory.
pub(crate) fn recipe(run: &Path, overrides: &[String]) -> Result<Recipe> {
    if !is_run(run) {
        let holds_runs = |folder: fs::ReadDir| folder.flatten().any(|own| is_run(&own.path()));
        let reason = match fs::read_dir(run).map(holds_runs) {
            Err(error) if error.kind() == ErrorKind::NotFound => "it does not exist".to_owned(),
            Ok(true) => "there are runs in it, give those".to_owned(),
            _ => format!("it has no {RECIPE}"),
        };
        bail!(
            "{} is not the directory of a run that has begun: {reason}",
            run.display()
        );
    }
    Recipe::load(Some(&run.join(RECIPE).display().to_string()), overrides)
}

/// The figures of every step of a run; none where there are no steps yet.
///
/// # Errors
/// If they cannot be read.
pub(crate) fn metrics(run: &Path) -> Result<Vec<Map<String, Value>>> {
    lines(&run.join(METRICS))
}

/// The evaluations of a run.
///
/// # Errors
/// If they cannot be read.
pub(crate) fn evaluations(run: &Path) -> Result<Vec<Evaluation>> {
    lines(&run.join(EVALUATIONS))
}

/// The whole lines of a file; one that is being written is not there yet.
fn lines<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>> {
    let bytes = match fs::read(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        bytes => bytes.with_context(|| format!("reading {}", path.display()))?,
    };
    // Before it is taken for text: what is being written may end within a character.
    let end = bytes.iter().rposition(|byte| *byte == b'\n').unwrap_or(0);
    let whole = std::str::from_utf8(&bytes[..end])
        .with_context(|| format!("reading {}", path.display()))?;
    let mut objects = Vec::new();
    for (index, line) in whole.lines().enumerate() {
        match serde_json::from_str(line) {
            Ok(object) => objects.push(object),
            Err(error) => bail!("reading {}, line {}: {error}", path.display(), index + 1),
        }
    }
    Ok(objects)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_lines_are_read_and_bad_ones_named() {
        let folder = tempfile::tempdir().unwrap();
        let run = folder.path();
        assert_eq!(metrics(run).unwrap(), []);
        let write = |text: &str| fs::write(run.join(METRICS), text).unwrap();
        fs::write(run.join(METRICS), b"{\"step\":1}\n{\"step\":2}\n{\"\xc3").unwrap();
        let steps: Vec<Value> = metrics(run)
            .unwrap()
            .iter()
            .map(|line| line["step"].clone())
            .collect();
        assert_eq!(steps, [1, 2]);
        write("{\"step\":1}\n{\"step\n{\"step\":3}\n");
        let message = metrics(run).unwrap_err().to_string();
        assert!(message.contains("metrics.jsonl, line 2: "), "{message}");
    }

    #[test]
    fn what_is_no_run_is_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        let check = |path: &Path, expected: &str| {
            let message = recipe(path, &[]).unwrap_err().to_string();
            assert!(message.ends_with(expected), "{message}");
        };
        check(path, "it has no recipe.ron");
        check(&path.join("nowhere"), "it does not exist");
        fs::create_dir(path.join("run")).unwrap();
        fs::write(path.join("run").join(RECIPE), "").unwrap();
        check(path, "there are runs in it, give those");
        check(&path.join("run").join(RECIPE), "it has no recipe.ron");
    }
}
