//! Training runs.

use std::path::Path;

use anyhow::{Result, bail};

use crate::recipe::Recipe;

/// Trains a recipe.
///
/// # Errors
/// Always: the loop is not written yet.
pub fn train(_recipe: &Recipe, _run_dir: Option<&Path>) -> Result<()> {
    bail!("the training loop is not written yet");
}
