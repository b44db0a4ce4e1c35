//! `polyphony eval`: how good a team is on the held-out tasks of a recipe.

use std::{io::Write, path::Path};

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;

use crate::{
    device::{DeviceChoice, Devices},
    evaluation, json_lines,
    progress::Display,
    recipe::{self, FineTuning, Recipe},
    team::{Models, agent_names},
    train::{check_tasks, load_tasks},
};

/// The arguments of `polyphony eval`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The name of a recipe that ships with the program, or a RON file; if left out, the recipe of
    /// the run directory in --team, or else the default recipe.
    recipe: Option<String>,
    /// Replaces one value of the recipe, such as `evaluation.tasks=8`; may be given several times.
    #[arg(long = "set", value_name = "PATH=VALUE")]
    overrides: Vec<String>,
    /// The agents, in place of the recipe's models: a run directory or one model for all roles; or
    /// given once for each role, a model a role.
    #[arg(long, value_name = "DIR")]
    team: Vec<String>,
    /// Where the models run, in place of the recipe's devices: cpu, wgpu, cuda or vulkan, the last
    /// two also with the device's number, as in cuda:1.
    #[arg(long)]
    device: Option<DeviceChoice>,
}

/// What the command prints.
#[derive(Serialize)]
struct Printed {
    #[serde(rename = "return")]
    mean_return: f64,
    standard_error: f64,
    #[serde(serialize_with = "evaluation::as_object")]
    parts: Vec<(String, f64)>,
    tasks: usize,
    skipped_tasks: usize,
    cut_episodes: usize,
}

/// Evaluates what the arguments say and prints one line.
pub(crate) fn run(arguments: &Arguments, output: &mut dyn Write) -> Result<()> {
    let recipe = arguments.recipe()?;
    let environment = recipe.environment.build()?.environment;
    let mut held_out = load_tasks(&recipe.held_out, "held_out", environment.as_ref())?;
    held_out.truncate(recipe.evaluation.tasks);
    let team = Models::open(&recipe, environment.as_ref())?.load(&recipe)?;
    check_tasks(&recipe, environment.as_ref(), &team, &held_out, "held_out")?;
    let mut display = Display::start("held-out tasks", held_out.len());
    let evaluation = evaluation::evaluate(
        &team,
        environment.as_ref(),
        &held_out,
        &recipe,
        &mut |done| display.advance_to(done),
    )?;
    display.finish();
    // Nobody listens for Ctrl-C here: it ends the program.
    let evaluation = evaluation.context("the evaluation was interrupted")?;
    let printed = Printed {
        mean_return: evaluation.mean_return,
        standard_error: evaluation.standard_error,
        parts: evaluation.parts,
        tasks: evaluation.tasks,
        skipped_tasks: evaluation.skipped_tasks,
        cut_episodes: evaluation.cut_episodes,
    };
    json_lines::write(output, &printed)
}

impl Arguments {
    /// The recipe with everything that was changed on the command line.
    fn recipe(&self) -> Result<Recipe> {
        let run = match self.team.as_slice() {
            [one] if is_run(Path::new(one)) => Some(Path::new(one)),
            _ => None,
        };
        let own = run.map(|run| run.join("recipe.ron").display().to_string());
        let which = self.recipe.as_ref().or(own.as_ref());
        let mut recipe = Recipe::load(which.map(String::as_str), &self.overrides)?;
        if let Some(device) = self.device {
            recipe.devices = Devices::Same(device);
        }
        // Nothing learns here.
        recipe.fine_tuning = FineTuning::Full;
        recipe.team = match (run, self.team.as_slice()) {
            (Some(run), _) => agents_of(run, &recipe)?,
            (None, []) => recipe.team,
            (None, [model]) => recipe::Team::Copies(model.clone()),
            (None, models) => recipe::Team::Each(models.to_vec()),
        };
        recipe.validate().context("checking --team")?;
        Ok(recipe)
    }
}

/// Whether a path is a run directory, as opposed to a model.
fn is_run(path: &Path) -> bool {
    path.join("recipe.ron").is_file()
}

/// The agents that a run of the recipe saved.
fn agents_of(run: &Path, recipe: &Recipe) -> Result<recipe::Team> {
    let path_of = |name: String| {
        let path = run.join("agents").join(&name);
        ensure!(
            path.is_dir(),
            "{} has no agent `{name}` (looked for {}): give the recipe that the run was trained \
             with, and wait until the run has ended",
            run.display(),
            path.display()
        );
        Ok(path.display().to_string())
    };
    let names = agent_names(&recipe.team, &recipe.environment.roles()).into_iter();
    let mut paths = names.map(path_of).collect::<Result<Vec<_>>>()?;
    Ok(match &recipe.team {
        recipe::Team::Shared(_) => recipe::Team::Shared(paths.remove(0)),
        recipe::Team::Copies(_) | recipe::Team::Each(_) => recipe::Team::Each(paths),
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::Value;

    use polyphony_episode::Environment as _;

    use super::*;
    use crate::{environment::EnvironmentKind, tiny_model};

    fn arguments(recipe: Option<&str>, overrides: &[&str], team: &[&str]) -> Arguments {
        let own = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        Arguments {
            recipe: recipe.map(str::to_owned),
            overrides: own(overrides),
            team: own(team),
            device: None,
        }
    }

    /// A run directory of the arXiv recipe with agents that hold nothing.
    fn run_directory() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let recipe = Recipe::load(Some("arxiv-smollm2"), &[]).unwrap();
        fs::write(folder.path().join("recipe.ron"), recipe.to_ron()).unwrap();
        for role in ["background", "method"] {
            fs::create_dir_all(folder.path().join("agents").join(role)).unwrap();
        }
        folder
    }

    #[test]
    fn models_given_replace_those_of_the_recipe() {
        let team = |models: &[&str]| arguments(None, &[], models).recipe().unwrap().team;
        assert_eq!(team(&["a"]), recipe::Team::Copies("a".to_owned()));
        let each = recipe::Team::Each(vec!["a".to_owned(), "b".to_owned()]);
        assert_eq!(team(&["a", "b"]), each);
        assert_eq!(team(&[]), Recipe::load(None, &[]).unwrap().team);
        let error = arguments(None, &[], &["a", "b", "c"]).recipe().unwrap_err();
        assert!(format!("{error:#}").contains("`team` lists 3 models, but must list 2"));
    }

    #[test]
    fn a_run_directory_brings_its_recipe_and_its_agents() {
        let folder = run_directory();
        let run = folder.path().to_str().unwrap();
        let recipe = arguments(None, &["seed=7"], &[run]).recipe().unwrap();
        assert_eq!(
            (recipe.environment, recipe.seed),
            (EnvironmentKind::Arxiv, 7)
        );
        let agents = ["background", "method"].map(|role| format!("{run}/agents/{role}"));
        assert_eq!(recipe.team, recipe::Team::Each(agents.into()));
        let error = arguments(Some("tldr-smollm2"), &[], &[run]).recipe();
        let message = error.unwrap_err().to_string();
        assert!(message.contains("has no agent `summarizer`"), "{message}");
    }

    #[test]
    fn the_same_team_gets_the_same_line_with_the_parts_as_an_object() {
        let folder = tiny_model::directory();
        let path = folder.path().to_str().unwrap();
        let posts = "{\"post\": \"It rained.\"}\n{\"post\": \"It snowed.\"}\n";
        fs::write(folder.path().join("posts.jsonl"), posts).unwrap();
        let source =
            format!(r#"held_out=File(path: "{path}/posts.jsonl", fields: {{"post": "post"}})"#);
        let overrides = [source.as_str(), "max_new_tokens=4", "evaluation.samples=2"];
        let line = || {
            let mut output = Vec::new();
            run(&arguments(None, &overrides, &[path]), &mut output).unwrap();
            String::from_utf8(output).unwrap()
        };
        let first = line();
        assert_eq!(first, line());
        let printed: Value = serde_json::from_str(&first).unwrap();
        let keys: Vec<&String> = printed.as_object().unwrap().keys().collect();
        assert_eq!(
            keys,
            [
                "return",
                "standard_error",
                "parts",
                "tasks",
                "skipped_tasks",
                "cut_episodes",
            ]
        );
        assert_eq!(printed["tasks"], 2);
        let parts: Vec<&String> = printed["parts"].as_object().unwrap().keys().collect();
        assert_eq!(parts, polyphony_env::Writing::tldr().reward_parts());
    }
}
