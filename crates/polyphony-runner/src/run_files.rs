//! Reading what a run has left.

use std::{fs, io::ErrorKind, path::Path};

use anyhow::{Context as _, Result, bail, ensure};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::{evaluation::Evaluation, recipe::Recipe};

/// The resolved recipe.
pub(crate) const RECIPE: &str = "recipe.ron";
/// One object a step.
pub(crate) const METRICS: &str = "metrics.jsonl";
/// What was said, one object a node.
pub(crate) const ROLLOUTS: &str = "rollouts.jsonl";
/// One object an evaluation.
pub(crate) const EVALUATIONS: &str = "evaluations.jsonl";
/// The same figures for TensorBoard, which knows such files by their names.
pub(crate) const EVENTS: &str = "tensorboard/events.out.tfevents.polyphony";

/// Whether a path is a run's directory, as opposed to a model's.
pub(crate) fn is_run(path: &Path) -> bool {
    path.join(RECIPE).is_file()
}

/// The recipe of a run.
///
/// # Errors
/// If the path is no run's directory.
pub(crate) fn recipe(run: &Path, overrides: &[String]) -> Result<Recipe> {
    ensure!(
        is_run(run),
        "{} is not the directory of a run that has begun: it has no {RECIPE}",
        run.display()
    );
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
    let text = match fs::read_to_string(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        text => text.with_context(|| format!("reading {}", path.display()))?,
    };
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
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
        write("{\"step\":1}\n{\"step\":2}\n{\"st");
        let steps: Vec<Value> = metrics(run)
            .unwrap()
            .iter()
            .map(|line| line["step"].clone())
            .collect();
        assert_eq!(steps, [1, 2]);
        write("{\"step\":1}\n{\"step\n{\"step\":3}\n");
        let message = metrics(run).unwrap_err().to_string();
        assert!(message.contains("metrics.jsonl, line 2: "), "{message}");
        let message = recipe(run, &[]).unwrap_err().to_string();
        assert!(message.contains("no recipe.ron"), "{message}");
    }
}
