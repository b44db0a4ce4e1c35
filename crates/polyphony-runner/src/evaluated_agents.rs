//! Which agents play in an evaluation.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use polyphony_episode::{Environment, Role};
use polyphony_report::check_training_run;

use crate::{
    device::Devices,
    recipe::{Recipe, TeamModels},
    registry::Registry,
    team::{AGENTS, agent_names},
};

/// The agents that play in the environment of a recipe.
#[derive(Clone, Copy, Debug, Default)]
pub enum EvaluatedAgents<'a> {
    /// The recipe's team.
    #[default]
    Team,
    /// The agents that the training run in this directory has saved.
    AgentsOf(&'a Path),
    /// One agent that does the work of the whole team, with the model and the device of the first agent. It
    /// may generate as many new tokens as all roles together.
    SingleAgent,
}

impl EvaluatedAgents<'_> {
    /// The recipe with these agents as its team, and the environment in which they play.
    ///
    /// # Errors
    /// If the agents do not exist, or the environment cannot be built.
    pub(crate) fn apply_to(
        self,
        registry: &Registry,
        recipe: &Recipe,
    ) -> Result<(Recipe, Box<dyn Environment>)> {
        if let Self::AgentsOf(run) = self {
            check_training_run(run).with_context(|| {
                format!(
                    "{} has no agents of its own: give a training run, such as the one whose agents it evaluated",
                    run.display()
                )
            })?;
        }
        let environment = registry.build_environment(&recipe.environment)?;
        let mut recipe = recipe.clone();
        match self {
            Self::Team => Ok((recipe, environment)),
            Self::AgentsOf(run) => {
                recipe.team = agents_of(run, &recipe.team, environment.roles())?;
                Ok((recipe, environment))
            }
            Self::SingleAgent => {
                let devices = recipe.devices.of_team(1);
                let first = recipe.team.names().first().copied().map(str::to_owned);
                recipe.team = TeamModels::Copies(first.context("`team` lists no models")?);
                recipe.devices = Devices::Same(devices.first().copied().unwrap_or_default());
                recipe.max_new_tokens *= environment.roles().len();
                recipe.updates.learning_rates.clear();
                let (choice, environment) = registry.wrap(&recipe.environment, environment)?;
                recipe.environment = choice;
                Ok((recipe, environment))
            }
        }
    }
}

/// The agents that a run has saved, if its team has the same shape as `team`.
fn agents_of(run: &Path, team: &TeamModels, roles: &[Role]) -> Result<TeamModels> {
    let path_of = |name: String| {
        let path = run.join(AGENTS).join(&name);
        ensure!(
            path.is_dir(),
            "{} has no agent `{name}` (looked for {}): give the recipe that the run was trained \
             with, and wait until the run has ended",
            run.display(),
            path.display()
        );
        Ok(path.display().to_string())
    };
    let names = agent_names(team, roles).into_iter();
    let mut paths = names.map(path_of).collect::<Result<Vec<_>>>()?;
    Ok(match team {
        TeamModels::Shared(_) => TeamModels::Shared(paths.remove(0)),
        TeamModels::Copies(_) | TeamModels::Each(_) => TeamModels::Each(paths),
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::fixture;

    fn apply(agents: EvaluatedAgents<'_>, changes: &[&str]) -> Result<Recipe> {
        let (recipe, environment) =
            agents.apply_to(&fixture::registry(), &fixture::recipe(changes))?;
        assert_eq!(
            environment.roles().len(),
            2,
            "the wrapper of the fixture changes nothing"
        );
        Ok(recipe)
    }

    #[test]
    fn a_single_agent_may_write_as_much_as_the_team() {
        let changes = [
            "team=Each([\"a\", \"b\"])",
            "updates.learning_rates={\"right\": 1e-5}",
            "devices=Each([Cuda(1), Cpu])",
        ];
        let team = fixture::recipe(&changes);
        let single = apply(EvaluatedAgents::SingleAgent, &changes).unwrap();
        assert_eq!(single.environment.name(), "SingleAgent");
        assert_eq!(single.max_new_tokens, 2 * team.max_new_tokens);
        assert_eq!(single.team, TeamModels::Copies("a".to_owned()));
        assert_eq!(single.devices, Devices::Same(crate::DeviceChoice::Cuda(1)));
        assert!(single.updates.learning_rates.is_empty());
    }

    #[test]
    fn the_agents_of_a_run_replace_the_team() {
        let folder = tempfile::tempdir().unwrap();
        let run = folder.path();
        let message = |changes: &[&str]| {
            let error = apply(EvaluatedAgents::AgentsOf(run), changes).unwrap_err();
            format!("{error:#}")
        };
        assert!(message(&[]).contains(" has no agents of its own"));
        fs::write(run.join("metrics.jsonl"), "").unwrap();
        assert!(message(&[]).contains("has no agent `left`"));
        for name in ["left", "right", "shared"] {
            fs::create_dir_all(run.join(AGENTS).join(name)).unwrap();
        }
        let path = |name: &str| run.join(AGENTS).join(name).display().to_string();
        let each = apply(EvaluatedAgents::AgentsOf(run), &[]).unwrap();
        assert_eq!(
            each.team,
            TeamModels::Each(vec![path("left"), path("right")])
        );
        let shared = apply(EvaluatedAgents::AgentsOf(run), &["team=Shared(\"a\")"]).unwrap();
        assert_eq!(shared.team, TeamModels::Shared(path("shared")));
    }
}
