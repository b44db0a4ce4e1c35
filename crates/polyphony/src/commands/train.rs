//! `polyphony train`: trains a team of agents from a recipe.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use polyphony_runner::{DeviceChoice, PrecisionChoice, Recipe, Registry, Stop};

use crate::{commands::print_summary, interrupt, launch::Launch};

/// The arguments of `polyphony train`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Use this recipe: the name of a recipe that ships with the program, or a RON file; without it, the
    /// default recipe.
    recipe: Option<String>,
    /// Replace one value of the recipe, such as `algorithm.samples=8`; can be given several times.
    #[arg(long = "set", value_name = "PATH=VALUE")]
    overrides: Vec<String>,
    /// Save metrics, rollouts and agents in this new directory, instead of the first free one of
    /// `runs/tldr-1`, `runs/tldr-2`, ….
    #[arg(long, value_name = "DIR")]
    run_dir: Option<PathBuf>,
    /// Train for this many steps, instead of the number in the recipe.
    #[arg(long, value_name = "N")]
    steps: Option<usize>,
    /// Run all models on this device, instead of the recipe's devices: cpu, wgpu, cuda or vulkan, the last
    /// two with a device number if needed, as in cuda:1.
    #[arg(long)]
    device: Option<DeviceChoice>,
    /// Compute with this precision, instead of the recipe's: auto, f32 or bf16.
    #[arg(long)]
    precision: Option<PrecisionChoice>,
}

/// Trains the team of the recipe.
pub(crate) fn run(registry: &Registry, launch: &Launch, arguments: &Arguments) -> Result<ExitCode> {
    let recipe = arguments.recipe(registry)?;
    let stop = Stop::new();
    let interrupt = interrupt::listen(&stop)?;
    let run_dir = arguments.run_dir.as_deref();
    let (world, mut display) = (launch.world(), launch.display());
    let trained =
        polyphony_runner::train(registry, &recipe, run_dir, world, &stop, display.as_mut())?;
    if launch.is_first() {
        print_summary(&trained);
    }
    Ok(interrupt.status())
}

impl Arguments {
    /// The recipe with all changes from the command line.
    fn recipe(&self, registry: &Registry) -> Result<Recipe> {
        let steps = self.steps.map(|steps| format!("steps={steps}"));
        let device = self
            .device
            .map(|device| format!("devices=Same({device:?})"));
        let precision = self
            .precision
            .map(|precision| format!("precision={precision:?}"));
        let flags = steps.into_iter().chain(device).chain(precision);
        let overrides: Vec<String> = self.overrides.iter().cloned().chain(flags).collect();
        Recipe::load(registry, self.recipe.as_deref(), &overrides)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_override_the_recipe_and_set() {
        let arguments = Arguments {
            recipe: None,
            overrides: vec!["seed=7".to_owned(), "steps=3".to_owned()],
            run_dir: None,
            steps: Some(5),
            device: None,
            precision: Some(PrecisionChoice::Bf16),
        };
        let recipe = arguments.recipe(&crate::standard::registry()).unwrap();
        assert_eq!((recipe.seed, recipe.steps), (7, 5));
        assert_eq!(recipe.precision, PrecisionChoice::Bf16);
    }
}
