//! The recipes that ship with the program: who works together, on how many tasks, for how long.
//!
//! `cargo run -p polyphony-runner --example list_recipes`
#![allow(clippy::print_stdout, reason = "an example shows its result")]

use anyhow::Result;
use polyphony_runner::recipe::{DEFAULT_NAME, Recipe, shipped};

fn main() -> Result<()> {
    for named in shipped() {
        let recipe = Recipe::load(Some(named.name), &[])?;
        let roles = recipe.environment.roles();
        let roles: Vec<&str> = roles.iter().map(|role| role.name.as_str()).collect();
        let default = if named.name == DEFAULT_NAME {
            " (default)"
        } else {
            ""
        };
        println!("{}{default}", named.name);
        println!("  roles   {}", roles.join(", "));
        println!("  models  {}", recipe.team.models(roles.len()).join(", "));
        match (recipe.train.load(), recipe.held_out.load()) {
            (Ok(train), Ok(held_out)) => println!(
                "  tasks   {} to train on, {} held out",
                train.len(),
                held_out.len()
            ),
            // A file that has to be fetched first.
            (Err(error), _) | (_, Err(error)) => {
                println!("  tasks   {error} (docs/recipes.md has where to get it)")
            }
        }
        println!(
            "  steps   {}, each with {} responses of at most {} tokens an agent and task",
            recipe.steps, recipe.algorithm.samples, recipe.max_new_tokens
        );
    }
    Ok(())
}
