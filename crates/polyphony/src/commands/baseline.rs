//! `polyphony baseline`: what a team reaches without learning to work together.

use std::{io::Write, path::PathBuf};

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum;
use polyphony_marl::Protocol;
use polyphony_runner::{
    Choice, DeviceChoice, Devices, Evaluating, FineTuning, Recipe, Registry, Team, steps_of_models,
};

use crate::commands::evaluation::{Kept, Request, evaluate};

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

/// Evaluates what the arguments say.
pub(crate) fn run(
    registry: &Registry,
    arguments: &Arguments,
    output: &mut dyn Write,
) -> Result<()> {
    let recipe = arguments.recipe(registry)?;
    let label = registry.label(&recipe.environment);
    let (directory, protocol) = match arguments.name {
        Name::Single => (label, Protocol::parallel()),
        Name::Parallel => (format!("{label}-parallel"), Protocol::parallel()),
        Name::Pipeline => (format!("{label}-pipeline"), Protocol::pipeline()),
        Name::Discussion => (format!("{label}-discussion"), Protocol::discussion()),
    };
    let kept = arguments
        .run_dir
        .as_deref()
        .map_or(Kept::Named(&directory), Kept::In);
    let request = Request {
        evaluating: Evaluating {
            recipe: &recipe,
            protocol: &protocol,
            step: steps_of_models(&recipe),
        },
        trained_by: None,
        kept,
    };
    evaluate(registry, &request, output)
}

impl Name {
    fn text(self) -> String {
        let value = self.to_possible_value();
        value.map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

impl Arguments {
    /// The recipe with everything that was changed on the command line.
    fn recipe(&self, registry: &Registry) -> Result<Recipe> {
        let mut recipe = Recipe::load(registry, self.recipe.as_deref(), &self.overrides)?;
        if let Some(device) = self.device {
            recipe.devices = Devices::Same(device);
        }
        // Nothing learns here.
        recipe.fine_tuning = FineTuning::Full;
        let is_single = registry.team_of(&recipe.environment).is_some();
        match self.name {
            Name::Single if !is_single => recipe = single(registry, recipe)?,
            Name::Single => {}
            name => ensure!(
                !is_single,
                "`environment` is {}, of one agent, but the baseline `{}` needs a team: give the recipe \
                 of the team",
                registry.label(&recipe.environment),
                name.text()
            ),
        }
        recipe
            .validate(registry)
            .with_context(|| format!("making the baseline `{}`", self.name.text()))?;
        Ok(recipe)
    }
}

/// The recipe for one agent that does the work of its team, with the first agent's model. It may say as
/// much as all of them together.
fn single(registry: &Registry, recipe: Recipe) -> Result<Recipe> {
    let name = registry.single_agent_name().context(
        "this program has no wrapper that lets one agent do a team's work: register one with \
         `single_agent`",
    )?;
    let roles = registry
        .build_environment(&recipe.environment)?
        .roles()
        .len();
    let first = recipe.team.names()[0].to_owned();
    let device = recipe.devices.of_team(roles)[0];
    let mut recipe = Recipe {
        environment: Choice::with_settings(name, format!("({})", recipe.environment)),
        max_new_tokens: recipe.max_new_tokens * roles,
        team: Team::Copies(first),
        devices: Devices::Same(device),
        ..recipe
    };
    recipe.updates.learning_rates.clear();
    Ok(recipe)
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
        };
        arguments.recipe(&registry())
    }

    #[test]
    fn a_single_agent_may_say_as_much_as_the_team() {
        let changes = [
            "team=Each([\"a\", \"b\"])",
            "updates.learning_rates={\"summarizer\": 1e-5}",
        ];
        let team = recipe(Name::Parallel, "tldr-smollm2", &changes).unwrap();
        let single = recipe(Name::Single, "tldr-smollm2", &changes).unwrap();
        assert_eq!(single.environment, Choice::with_settings("Solo", "(Tldr)"));
        assert_eq!(single.max_new_tokens, 2 * team.max_new_tokens);
        assert_eq!(single.team, Team::Copies("a".to_owned()));
        // A recipe of one agent is that baseline already.
        let solo = recipe(Name::Single, "tldr-qwen3-solo", &[]).unwrap();
        assert_eq!(
            solo,
            Recipe::load(&registry(), Some("tldr-qwen3-solo"), &[]).unwrap()
        );
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
        let error = recipe(Name::Discussion, "tldr-qwen3-solo", &[])
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("`environment` is tldr-solo, of one agent, but"),
            "{error}"
        );
    }
}
