//! `polyphony eval`: evaluates a team on the held-out tasks of a recipe.

use std::{
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::{Result, ensure};
use polyphony_marl::Protocol;
use polyphony_runner::{
    DeviceChoice, Devices, EvaluatedAgents, EvaluationRequest, FineTuning, PrecisionChoice, Recipe,
    Registry, TeamModels, run_recipe, training_steps_of_models,
};

use crate::{
    commands::evaluation::{Destination, EvaluationJob, evaluate},
    launch::Launch,
};

/// The arguments of `polyphony eval`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Use this recipe: the name of a recipe that ships with the program, or a RON file; without it, the
    /// recipe of the run in --team, or else the default recipe.
    recipe: Option<String>,
    /// Replace one value of the recipe, such as `evaluation.tasks=8`; can be given several times.
    #[arg(long = "set", value_name = "PATH=VALUE")]
    overrides: Vec<String>,
    /// Evaluate these agents instead of the recipe's models: a run directory, or one model for all roles;
    /// give the option once per role for one model per role.
    #[arg(long, value_name = "DIR")]
    team: Vec<String>,
    /// Run the models on this device, instead of the recipe's devices: cpu, wgpu, cuda or vulkan, the last
    /// two with a device number if needed, as in cuda:1.
    #[arg(long)]
    device: Option<DeviceChoice>,
    /// Compute with this precision, instead of the recipe's: auto, f32 or bf16.
    #[arg(long)]
    precision: Option<PrecisionChoice>,
    /// Save the recipe, the metrics and all responses in this new directory, for `compare` and `report`.
    #[arg(long, value_name = "DIR")]
    run_dir: Option<PathBuf>,
}

/// Evaluates the team and prints one line with the metrics.
pub(crate) fn run(
    registry: &Registry,
    launch: &Launch,
    arguments: &Arguments,
    output: &mut dyn Write,
) -> Result<()> {
    let recipe = arguments.recipe(registry)?;
    let run = arguments.run();
    let job = EvaluationJob {
        request: EvaluationRequest {
            recipe: &recipe,
            agents: run.map_or(EvaluatedAgents::Team, EvaluatedAgents::AgentsOf),
            protocol: &Protocol::parallel(),
            step: arguments.steps(&recipe)?,
        },
        trained_by: run,
        destination: arguments
            .run_dir
            .as_deref()
            .map_or(Destination::None, Destination::Directory),
    };
    evaluate(registry, launch, &job, output)
}

impl Arguments {
    /// The run whose agents are evaluated, if --team is a run.
    fn run(&self) -> Option<&Path> {
        match self.team.as_slice() {
            [path] if polyphony_report::is_run(Path::new(path)) => Some(Path::new(path)),
            _ => None,
        }
    }

    /// The training steps that the team has had; `None` if that is not known.
    fn steps(&self, recipe: &Recipe) -> Result<Option<usize>> {
        Ok(match (self.run(), self.team.as_slice()) {
            (Some(run), _) => polyphony_report::trained_steps(run)?,
            (None, []) => training_steps_of_models(recipe),
            (None, _) => None,
        })
    }

    /// The recipe with all changes from the command line.
    fn recipe(&self, registry: &Registry) -> Result<Recipe> {
        ensure!(
            self.team.is_empty() || !self.overrides.iter().any(|change| replaces_team(change)),
            "--team and --set team=… both choose the team: leave one of them out"
        );
        let mut recipe = match (&self.recipe, self.run()) {
            (None, Some(run)) => run_recipe(registry, run, &self.overrides)?,
            (which, _) => Recipe::load(registry, which.as_deref(), &self.overrides)?,
        };
        if let Some(device) = self.device {
            recipe.devices = Devices::Same(device);
        }
        recipe.precision = self.precision.unwrap_or(recipe.precision);
        // Nothing is trained here.
        recipe.fine_tuning = FineTuning::Full;
        recipe.updates.learning_rates.clear();
        match (self.run(), self.team.as_slice()) {
            (Some(_), _) | (None, []) => {}
            (None, [model]) => recipe.team = TeamModels::Copies(model.clone()),
            (None, models) => recipe.team = TeamModels::Each(models.to_vec()),
        }
        Ok(recipe)
    }
}

/// Whether an override replaces the recipe's team.
fn replaces_team(change: &str) -> bool {
    let (path, _) = change.split_once('=').unwrap_or_default();
    path.trim() == "team"
}

#[cfg(test)]
mod tests {
    use std::fs;

    use polyphony_runner::Choice;
    use serde_json::Value;

    use polyphony_episode::Environment as _;

    use super::*;
    use crate::standard::registry;

    fn arguments(recipe: Option<&str>, overrides: &[&str], team: &[&str]) -> Arguments {
        let to_strings = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        Arguments {
            recipe: recipe.map(str::to_owned),
            overrides: to_strings(overrides),
            team: to_strings(team),
            device: None,
            precision: None,
            run_dir: None,
        }
    }

    fn resolve(arguments: &Arguments) -> Result<Recipe> {
        arguments.recipe(&registry())
    }

    /// A run directory of the arXiv recipe with empty agent directories.
    fn run_directory() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let recipe = Recipe::load(&registry(), Some("arxiv-smollm2"), &[]).unwrap();
        fs::write(folder.path().join("recipe.ron"), recipe.to_ron()).unwrap();
        fs::write(folder.path().join("metrics.jsonl"), "").unwrap();
        for role in ["background", "method"] {
            fs::create_dir_all(folder.path().join("agents").join(role)).unwrap();
        }
        folder
    }

    #[test]
    fn models_in_team_replace_those_of_the_recipe() {
        let team = |models: &[&str]| resolve(&arguments(None, &[], models)).unwrap().team;
        assert_eq!(team(&["a"]), TeamModels::Copies("a".to_owned()));
        let each = TeamModels::Each(vec!["a".to_owned(), "b".to_owned()]);
        assert_eq!(team(&["a", "b"]), each);
        assert_eq!(
            team(&[]),
            Recipe::load(&registry(), None, &[]).unwrap().team
        );
        let twice = arguments(None, &["team=Copies(\"b\")"], &["a"]);
        let error = resolve(&twice).unwrap_err().to_string();
        assert!(error.contains("leave one of them out"), "{error}");
    }

    #[test]
    fn learning_rates_do_not_matter() {
        let changes = [
            "team=Shared(\"a\")",
            "updates.learning_rates={\"shared\": 1e-3}",
        ];
        let recipe = Recipe::load(&registry(), None, &changes.map(str::to_owned)).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("shared.ron");
        fs::write(&file, recipe.to_ron()).unwrap();
        let resolved = resolve(&arguments(file.to_str(), &[], &["b"])).unwrap();
        assert_eq!(resolved.team, TeamModels::Copies("b".to_owned()));
    }

    #[test]
    fn a_run_directory_brings_its_recipe_and_its_agents() {
        let folder = run_directory();
        let run_dir = folder.path().to_str().unwrap();
        let recipe = resolve(&arguments(None, &["seed=7"], &[run_dir])).unwrap();
        assert_eq!((recipe.environment, recipe.seed), (Choice::new("Arxiv"), 7));
        let other_recipe = arguments(Some("tldr-smollm2"), &[], &[run_dir]);
        let error = run(
            &registry(),
            &Launch::default(),
            &other_recipe,
            &mut Vec::new(),
        )
        .unwrap_err();
        let message = error.to_string();
        assert!(message.contains("has no agent `summarizer`"), "{message}");
    }

    #[test]
    fn agents_of_a_run_are_not_untrained_models() {
        let folder = run_directory();
        let run = folder.path().to_str().unwrap();
        let team = format!("team=Copies(\"{run}/agents/method\")");
        for (team, steps) in [(team.as_str(), None), ("team=Copies(\"method\")", Some(0))] {
            let arguments = arguments(Some("arxiv-smollm2"), &[team], &[]);
            let recipe = resolve(&arguments).unwrap();
            assert_eq!(arguments.steps(&recipe).unwrap(), steps, "{team}");
        }
    }

    #[test]
    fn the_same_team_gets_the_same_line() {
        let folder = polyphony_test_support::plain_model(2048);
        let path = folder.path().to_str().unwrap();
        let posts = "{\"post\": \"It rained.\"}\n{\"post\": \"It snowed.\"}\n";
        fs::write(folder.path().join("posts.jsonl"), posts).unwrap();
        let source =
            format!(r#"held_out=File(path: "{path}/posts.jsonl", fields: {{"post": "post"}})"#);
        let overrides = [source.as_str(), "max_new_tokens=4", "evaluation.samples=2"];
        let line = || {
            let mut output = Vec::new();
            run(
                &registry(),
                &Launch::default(),
                &arguments(None, &overrides, &[path]),
                &mut output,
            )
            .unwrap();
            String::from_utf8(output).unwrap()
        };
        let mut printed: Value = serde_json::from_str(&line()).unwrap();
        let mut again: Value = serde_json::from_str(&line()).unwrap();
        let timing = |line: &mut Value| line.as_object_mut().unwrap().shift_remove("timing");
        assert!(timing(&mut printed).is_some() && timing(&mut again).is_some());
        assert_eq!(printed, again);
        let keys: Vec<&String> = printed.as_object().unwrap().keys().collect();
        assert_eq!(
            keys,
            [
                "step",
                "protocol",
                "return",
                "parts",
                "pass_at",
                "roles",
                "tasks",
                "samples",
                "skipped_episodes",
                "cut_episodes",
                "completion_tokens",
                "prompt_tokens",
            ]
        );
        assert_eq!(printed["tasks"], 2);
        let parts: Vec<&String> = printed["parts"].as_object().unwrap().keys().collect();
        let environment = registry().build_environment(&Choice::new("Tldr")).unwrap();
        let names: Vec<&String> = environment.reward_parts().iter().collect();
        assert_eq!(parts, names);
    }
}
