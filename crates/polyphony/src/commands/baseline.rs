//! `polyphony baseline`: what a team reaches without learning to work together.

use std::{io::Write, path::PathBuf};

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum;
use polyphony_marl::Protocol;

use crate::{
    device::{DeviceChoice, Devices},
    environment::EnvironmentKind,
    judging::{Judging, Kept, judge},
    recipe::{FineTuning, Recipe, Team},
    run_files,
};

/// The arguments of `polyphony baseline`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// How the answers come about.
    name: Name,
    /// The name of a recipe that ships with the program, or a RON file; the default recipe if left out.
    recipe: Option<String>,
    /// Replaces one value of the recipe, such as `seed=2`; may be given several times.
    #[arg(long = "set", value_name = "PATH=VALUE")]
    overrides: Vec<String>,
    /// The new directory for the result; the first free one of `runs/tldr-pipeline-1`, … if left out.
    #[arg(long, value_name = "DIR")]
    run_dir: Option<PathBuf>,
    /// Where the models run, in place of the recipe's devices: cpu, wgpu, cuda or vulkan, the last
    /// two also with the device's number, as in cuda:1.
    #[arg(long)]
    device: Option<DeviceChoice>,
}

/// The baselines of the MAGRPO paper (arXiv 2508.04652).
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Name {
    /// One agent alone writes what all would.
    Single,
    /// The agents answer without knowing of one another.
    Parallel,
    /// The second agent reads the first one's answer before it writes its own.
    Pipeline,
    /// Each agent reads the other's answer and revises its own once.
    Discussion,
}

/// Judges what the arguments say.
pub(crate) fn run(arguments: &Arguments, output: &mut dyn Write) -> Result<()> {
    let recipe = arguments.recipe()?;
    let directory = match arguments.name {
        Name::Single => recipe.environment.name(),
        name => format!("{}-{}", recipe.environment.name(), name.text()),
    };
    let protocol = match arguments.name {
        Name::Single | Name::Parallel => Protocol::Parallel,
        Name::Pipeline => Protocol::Pipeline,
        Name::Discussion => Protocol::Discussion,
    };
    let kept = arguments
        .run_dir
        .as_deref()
        .map_or(Kept::Named(&directory), Kept::In);
    let judging = Judging {
        recipe: &recipe,
        training: None,
        protocol,
        step: run_files::steps_of_models(&recipe),
        kept,
    };
    judge(&judging, output)
}

impl Name {
    fn text(self) -> String {
        let value = self.to_possible_value();
        value.map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

impl Arguments {
    /// The recipe with everything that was changed on the command line.
    fn recipe(&self) -> Result<Recipe> {
        let mut recipe = Recipe::load(self.recipe.as_deref(), &self.overrides)?;
        if let Some(device) = self.device {
            recipe.devices = Devices::Same(device);
        }
        // Nothing learns here.
        recipe.fine_tuning = FineTuning::Full;
        let is_single = matches!(recipe.environment, EnvironmentKind::Solo(_));
        match self.name {
            Name::Single if !is_single => recipe = single(recipe),
            Name::Single => {}
            name => ensure!(
                !is_single,
                "`environment` is {}, of one agent, but the baseline `{}` needs a team: give the recipe \
                 of the team",
                recipe.environment.name(),
                name.text()
            ),
        }
        recipe
            .validate()
            .with_context(|| format!("making the baseline `{}`", self.name.text()))?;
        Ok(recipe)
    }
}

/// The recipe for one agent that does the work of its team, with the first agent's model. It may say as
/// much as all of them together.
fn single(recipe: Recipe) -> Recipe {
    let roles = recipe.environment.roles().len();
    let first = recipe.team.models(roles)[0].to_owned();
    let device = recipe.devices.of_team(roles)[0];
    let mut recipe = Recipe {
        environment: EnvironmentKind::Solo(Box::new(recipe.environment)),
        max_new_tokens: recipe.max_new_tokens * roles,
        team: Team::Copies(first),
        devices: Devices::Same(device),
        ..recipe
    };
    recipe.updates.learning_rates.clear();
    recipe
}

#[cfg(test)]
mod tests {
    use super::*;

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
        };
        arguments.recipe()
    }

    #[test]
    fn a_single_agent_may_say_as_much_as_the_team() {
        let changes = [
            "team=Each([\"a\", \"b\"])",
            "updates.learning_rates={\"summarizer\": 1e-5}",
        ];
        let team = recipe(Name::Parallel, "tldr-smollm2", &changes).unwrap();
        let single = recipe(Name::Single, "tldr-smollm2", &changes).unwrap();
        assert_eq!(
            single.environment,
            EnvironmentKind::Solo(Box::new(EnvironmentKind::Tldr))
        );
        assert_eq!(single.max_new_tokens, 2 * team.max_new_tokens);
        assert_eq!(single.team, Team::Copies("a".to_owned()));
        // A recipe of one agent is that baseline already.
        let solo = recipe(Name::Single, "tldr-qwen3-solo", &[]).unwrap();
        assert_eq!(solo, Recipe::load(Some("tldr-qwen3-solo"), &[]).unwrap());
    }

    #[test]
    fn one_agent_cannot_discuss() {
        let error = recipe(Name::Discussion, "tldr-qwen3-solo", &[])
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("`environment` is tldr-solo, of one agent, but"),
            "{error}"
        );
    }
}
