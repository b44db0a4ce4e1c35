//! Reads the recipe of a run on disk.

use std::path::Path;

use anyhow::{Result, anyhow};
use polyphony_report::{Run, is_agent_of_run, recipe_text};

use crate::{recipe::Recipe, registry::Registry};

/// The recipe of a run, with overrides of the form `path=value`.
///
/// # Errors
/// If the path is not a run's directory, or the recipe or an override is wrong, for example because this program has
/// not registered something that the recipe names. An error in the recipe or an override also names the program
/// that made the run, if it is known.
pub fn run_recipe(registry: &Registry, run: &Path, overrides: &[String]) -> Result<Recipe> {
    let text = recipe_text(run)?;
    let label = format!("the recipe of {}", run.display());
    let recipe = Recipe::parse(registry, &label, &text, overrides);
    let made_by = || Run::read(run).ok()?.info.program;
    recipe.map_err(|error| match made_by() {
        Some(program) => error.context(anyhow!(
            "{} was made by the program `{}` {}",
            run.display(),
            program.name,
            program.version
        )),
        None => error,
    })
}

/// The training steps that the models of a recipe have had: 0, or `None` (not known) if one of them is an
/// agent that a run has saved.
pub fn training_steps_of_models(recipe: &Recipe) -> Option<usize> {
    let is_agent = |model: &&str| is_agent_of_run(Path::new(model));
    (!recipe.team.names().iter().any(is_agent)).then_some(0)
}
