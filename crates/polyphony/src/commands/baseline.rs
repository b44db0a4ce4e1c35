//! `polyphony baseline`: evaluates a team that was not trained to work together.

use std::{io::Write, path::PathBuf};

use anyhow::{Result, ensure};
use clap::ValueEnum;
use polyphony_marl::Protocol;
use polyphony_runner::{
    DeviceChoice, Devices, EvaluatedAgents, EvaluationRequest, FineTuning, PrecisionChoice, Recipe,
    Registry, training_steps_of_models,
};

use crate::{
    commands::evaluation::{Destination, EvaluationJob, evaluate},
    launch::Launch,
};

/// The arguments of `polyphony baseline`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Choose how the agents produce their answers.
    name: Name,
    /// Use this recipe: the name of a recipe that ships with the program, or a RON file; without it, the
    /// default recipe.
    recipe: Option<String>,
    /// Replace one value of the recipe, such as `seed=2`; can be given several times.
    #[arg(long = "set", value_name = "PATH=VALUE")]
    overrides: Vec<String>,
    /// Save the result in this new directory, instead of the first free one of `runs/tldr-pipeline-1`, ….
    #[arg(long, value_name = "DIR")]
    run_dir: Option<PathBuf>,
    /// Run the models on this device, instead of the recipe's devices: cpu, wgpu, cuda or vulkan, the last
    /// two with a device number if needed, as in cuda:1.
    #[arg(long)]
    device: Option<DeviceChoice>,
    /// Compute with this precision, instead of the recipe's: auto, f32 or bf16.
    #[arg(long)]
    precision: Option<PrecisionChoice>,
}

/// The baselines of the MAGRPO paper (arXiv 2508.04652).
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Name {
    /// A single agent does the work of the whole team.
    Single,
    /// The agents answer independently.
    Parallel,
    /// The second agent reads the first one's answer before it writes its own.
    Pipeline,
    /// Each agent reads the other's answer and revises its own once.
    Discussion,
}

/// Evaluates the baseline.
pub(crate) fn run(
    registry: &Registry,
    launch: &Launch,
    arguments: &Arguments,
    output: &mut dyn Write,
) -> Result<()> {
    let recipe = arguments.recipe(registry)?;
    let (agents, protocol, suffix) = match arguments.name {
        Name::Single => (single(registry, &recipe), Protocol::parallel(), ""),
        Name::Parallel => (EvaluatedAgents::Team, Protocol::parallel(), "-parallel"),
        Name::Pipeline => (EvaluatedAgents::Team, Protocol::pipeline(), "-pipeline"),
        Name::Discussion => (EvaluatedAgents::Team, Protocol::discussion(), "-discussion"),
    };
    let run_dir = arguments.run_dir.as_deref();
    let job = EvaluationJob {
        request: EvaluationRequest {
            recipe: &recipe,
            agents,
            protocol: &protocol,
            step: training_steps_of_models(&recipe),
        },
        trained_by: None,
        destination: run_dir.map_or(Destination::Numbered(suffix), Destination::Directory),
    };
    evaluate(registry, launch, &job, output)
}

/// The agents of the single-agent baseline. A recipe for a single agent is that baseline already.
fn single(registry: &Registry, recipe: &Recipe) -> EvaluatedAgents<'static> {
    match registry.inner_environment(&recipe.environment) {
        Some(_) => EvaluatedAgents::Team,
        None => EvaluatedAgents::SingleAgent,
    }
}

impl Name {
    fn text(self) -> String {
        let value = self.to_possible_value();
        value.map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

impl Arguments {
    /// The recipe with all changes from the command line.
    fn recipe(&self, registry: &Registry) -> Result<Recipe> {
        let mut recipe = Recipe::load(registry, self.recipe.as_deref(), &self.overrides)?;
        if let Some(device) = self.device {
            recipe.devices = Devices::Same(device);
        }
        recipe.precision = self.precision.unwrap_or(recipe.precision);
        // Nothing is trained here.
        recipe.fine_tuning = FineTuning::Full;
        let is_single = registry.inner_environment(&recipe.environment).is_some();
        ensure!(
            self.name == Name::Single || !is_single,
            "`environment` is {}, for one agent, but the baseline `{}` needs a team: give the recipe \
             of the team",
            registry.label(&recipe.environment),
            self.name.text()
        );
        Ok(recipe)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::standard::registry;

    fn recipe(name: Name, which: &str, overrides: &[&str]) -> Result<Recipe> {
        let arguments = Arguments {
            name,
            recipe: Some(which.to_owned()),
            overrides: overrides
                .iter()
                .map(|change| (*change).to_owned())
                .collect(),
            run_dir: None,
            device: None,
            precision: None,
        };
        arguments.recipe(&registry())
    }

    #[test]
    fn a_single_agent_recipe_is_not_wrapped_again() {
        for (which, expected) in [("tldr-smollm2", true), ("tldr-qwen3-single-agent", false)] {
            let recipe = recipe(Name::Single, which, &[]).unwrap();
            let agents = single(&registry(), &recipe);
            assert_eq!(
                matches!(agents, EvaluatedAgents::SingleAgent),
                expected,
                "{which}"
            );
        }
    }

    #[test]
    fn empty_lists_are_refused() {
        for key in ["team", "devices"] {
            let change = format!("{key}=Each([])");
            let error = recipe(Name::Single, "tldr-smollm2", &[&change]).unwrap_err();
            let expected = format!("`{key}` is Each([]), but must list one for each role");
            let message = format!("{error:#}");
            assert!(message.ends_with(&expected), "{message}");
        }
    }

    #[test]
    fn one_agent_cannot_discuss() {
        let error = recipe(Name::Discussion, "tldr-qwen3-single-agent", &[])
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("`environment` is tldr-single-agent, for one agent, but"),
            "{error}"
        );
    }
}
