//! The tasks of a recipe, loaded and checked.

use anyhow::{Context as _, Result};
use polyphony_env::Source;
use polyphony_episode::{Environment, Task};

/// Loads a data set and lets the environment look at every task: one that it cannot use is found
/// now, not after hours. `key` is the data set's key in the recipe.
///
/// # Errors
/// If the data set cannot be loaded or holds a task that the environment cannot use.
pub(crate) fn load(key: &str, source: &Source, environment: &dyn Environment) -> Result<Vec<Task>> {
    let tasks = source.load().with_context(|| format!("loading `{key}`"))?;
    for task in &tasks {
        environment
            .start(task)
            .with_context(|| format!("checking `{key}`"))?;
    }
    Ok(tasks)
}
