//! Reads the directory of a run.

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use indexmap::IndexSet;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::{
    error::{ReportError, Result},
    evaluation::EvaluationRecord,
    info::RunInfo,
    layout, legacy,
    metrics::{MetricCatalog, flat_values},
    read::{lines, optional_json, optional_text},
    settings::{FlatSettings, ron_options, settings},
};

/// A training run, a baseline or a saved evaluation on disk.
#[derive(Clone, Debug, Default)]
pub struct Run {
    /// Its directory.
    pub path: PathBuf,
    /// What it reports about itself; missing keys are derived from its recipe.
    pub info: RunInfo,
    /// The text of its resolved recipe.
    pub recipe: String,
    /// The settings of the recipe by their paths.
    pub settings: FlatSettings,
    /// The settings of the training run, if this is a saved evaluation of a trained team.
    pub training: Option<FlatSettings>,
    /// The metrics of every step; empty for a baseline.
    pub metrics: Vec<Map<String, Value>>,
    /// The units and meanings of the metrics.
    pub catalog: MetricCatalog,
    /// The evaluations, in the order in which they were made.
    pub evaluations: Vec<EvaluationRecord>,
    /// Notes on what is missing because an older program made the run, as whole sentences.
    pub missing: Vec<String>,
}

impl Run {
    /// Reads the current state of a run's directory.
    ///
    /// # Errors
    /// If the path is not a run's directory, or its files cannot be read.
    pub fn read(path: &Path) -> Result<Self> {
        let recipe = recipe_text(path)?;
        let mut metrics = metrics(path)?;
        let mut evaluations = evaluations(path)?;
        let run_settings = settings_of(&recipe);
        let training = optional_text(&path.join(layout::TRAINING))?;
        let training = training.as_deref().map(settings_of);
        let file: Option<Map<String, Value>> = optional_json(&path.join(layout::INFO))?;
        let catalog = catalog(path)?;
        let mut missing = Vec::new();
        if file.is_none() {
            missing.push(format!(
                "{} has no {}: the names of its environment and algorithm are guessed from its recipe, and \
                 its program is not known.",
                path.display(),
                layout::INFO
            ));
        }
        if catalog.is_none() && !metrics.is_empty() {
            missing.push(format!(
                "{} has no {}: the units and meanings of its metrics are not known.",
                path.display(),
                layout::CATALOG
            ));
        }
        let roles = roles(&metrics, &evaluations);
        let info = info(
            file.unwrap_or_default(),
            &run_settings,
            training.as_ref(),
            roles,
        );
        let mut info = info.map_err(|source| ReportError::Json {
            path: path.join(layout::INFO),
            source,
        })?;
        legacy::rename_role(&mut info, &mut metrics, &mut evaluations);
        Ok(Self {
            path: path.to_owned(),
            info,
            recipe,
            settings: run_settings,
            training,
            metrics,
            catalog: catalog.unwrap_or_default(),
            evaluations,
            missing,
        })
    }

    /// The first evaluation, and the last one if there are several.
    pub fn first_and_last_evaluation(&self) -> [Option<&EvaluationRecord>; 2] {
        match self.evaluations.as_slice() {
            [] => [None, None],
            [only] => [Some(only), None],
            [first, .., last] => [Some(first), Some(last)],
        }
    }

    /// The evaluation after this many steps.
    pub fn evaluation_at(&self, step: usize) -> Option<&EvaluationRecord> {
        let mut evaluations = self.evaluations.iter();
        evaluations.find(|evaluation| evaluation.step == Some(step))
    }

    /// The name of its directory.
    pub fn name(&self) -> String {
        let name = self.path.file_name().unwrap_or(self.path.as_os_str());
        name.to_string_lossy().into_owned()
    }
}

fn settings_of(recipe: &str) -> FlatSettings {
    let mut settings = settings(recipe);
    legacy::complete(&mut settings);
    settings
}

/// Combines `run.json` with what can be derived from the recipes of the run and of its team's training.
fn info(
    mut file: Map<String, Value>,
    run_settings: &FlatSettings,
    training: Option<&FlatSettings>,
    roles: Vec<String>,
) -> Result<RunInfo, serde_json::Error> {
    let read = |settings: &FlatSettings, file: Map<String, Value>| {
        let mut value = serde_json::to_value(legacy::derive(settings, roles.clone()))?;
        legacy::overlay(&mut value, file);
        serde_json::from_value::<RunInfo>(value)
    };
    let training_file = match file.shift_remove("training") {
        Some(Value::Object(training_file)) => training_file,
        _ => Map::new(),
    };
    let training = match training {
        Some(settings) => Some(Box::new(read(settings, training_file)?)),
        None => None,
    };
    let info = read(run_settings, file)?;
    Ok(RunInfo { training, ..info })
}

/// The roles that a run's files name.
fn roles(metrics: &[Map<String, Value>], evaluations: &[EvaluationRecord]) -> Vec<String> {
    if let Some(evaluation) = evaluations.first() {
        return evaluation.roles.keys().cloned().collect();
    }
    // Every role has this metric, and nothing else has it.
    let names = metrics.first().into_iter().flat_map(flat_values);
    let roles = names.filter_map(|(name, _)| Some(name.strip_suffix("/grad_norm")?.to_owned()));
    roles.collect::<IndexSet<String>>().into_iter().collect()
}

/// Whether a path is the directory of a run and not of a model.
pub fn is_run(path: &Path) -> bool {
    path.join(layout::RECIPE).is_file()
}

/// Whether a path is that of an agent that a run saved.
pub fn is_agent_of_run(path: &Path) -> bool {
    let agents = path
        .parent()
        .filter(|agents| agents.ends_with(layout::AGENTS));
    agents.and_then(Path::parent).is_some_and(is_run)
}

/// Refuses the directory of a baseline or of a saved evaluation, which has no steps.
///
/// # Errors
/// If the directory is one of these.
pub fn check_training_run(run: &Path) -> Result<()> {
    match run.join(layout::METRICS).is_file() {
        true => Ok(()),
        false => Err(ReportError::NoTrainingRun {
            path: run.to_owned(),
        }),
    }
}

/// The text of a run's resolved recipe.
///
/// # Errors
/// If the path is not a run's directory.
pub fn recipe_text(run: &Path) -> Result<String> {
    if !is_run(run) {
        let holds_runs = |folder: fs::ReadDir| folder.flatten().any(|entry| is_run(&entry.path()));
        let reason = match fs::read_dir(run).map(holds_runs) {
            Err(error) if error.kind() == ErrorKind::NotFound => "it does not exist".to_owned(),
            Ok(true) => "it contains runs: give those instead".to_owned(),
            _ => format!("it has no {}", layout::RECIPE),
        };
        return Err(ReportError::NoRun {
            path: run.to_owned(),
            reason,
        });
    }
    let text = optional_text(&run.join(layout::RECIPE))?;
    // The file may have been removed a moment ago.
    text.ok_or_else(|| ReportError::NoRun {
        path: run.to_owned(),
        reason: format!("it has no {}", layout::RECIPE),
    })
}

/// How many training steps the saved agents of a run have had; `None` if it is not recorded.
///
/// # Errors
/// If the record cannot be read.
pub fn trained_steps(run: &Path) -> Result<Option<usize>> {
    #[derive(Deserialize)]
    struct Trained {
        steps: usize,
    }
    let path = run.join(layout::TRAINED);
    let Some(text) = optional_text(&path)? else {
        return Ok(None);
    };
    match ron_options().from_str::<Trained>(&text) {
        Ok(trained) => Ok(Some(trained.steps)),
        Err(source) => Err(ReportError::Ron {
            path,
            source: Box::new(source),
        }),
    }
}

/// The metrics of every step of a run; empty before the first step.
///
/// # Errors
/// If they cannot be read.
pub fn metrics(run: &Path) -> Result<Vec<Map<String, Value>>> {
    let mut steps = lines(&run.join(layout::METRICS))?;
    steps.iter_mut().for_each(legacy::rename_metrics);
    Ok(steps)
}

/// The evaluations of a run.
///
/// # Errors
/// If they cannot be read.
pub fn evaluations(run: &Path) -> Result<Vec<EvaluationRecord>> {
    lines(&run.join(layout::EVALUATIONS))
}

/// The units and meanings of a run's metrics, if they are recorded.
///
/// # Errors
/// If the record cannot be read.
pub(crate) fn catalog(run: &Path) -> Result<Option<MetricCatalog>> {
    let catalog: Option<MetricCatalog> = optional_json(&run.join(layout::CATALOG))?;
    Ok(catalog.map(MetricCatalog::renamed))
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use serde_json::json;

    use super::*;
    use crate::fixture;

    #[test]
    fn whole_lines_are_read_and_bad_ones_named() {
        let folder = tempfile::tempdir().unwrap();
        let run = folder.path();
        assert_eq!(metrics(run).unwrap(), []);
        let write = |text: &[u8]| fs::write(run.join(layout::METRICS), text).unwrap();
        for nothing in ["", "{\"step\":1"] {
            write(nothing.as_bytes());
            assert_eq!(metrics(run).unwrap(), []);
        }
        write(b"{\"step\":1}\n{\"step\":2}\n{\"\xc3");
        let steps: Vec<Value> = metrics(run)
            .unwrap()
            .iter()
            .map(|line| line["step"].clone())
            .collect();
        assert_eq!(steps, [1, 2]);
        write(b"{\"step\":1}\n{\"step\n{\"step\":3}\n");
        let error = metrics(run).unwrap_err();
        assert!(
            error.to_string().ends_with("metrics.jsonl, line 2"),
            "{error}"
        );
        assert!(error.source().is_some());
    }

    #[test]
    fn paths_that_are_not_runs_are_refused_with_the_reason() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        let check = |path: &Path, expected: &str| {
            let message = Run::read(path).unwrap_err().to_string();
            assert!(message.ends_with(expected), "{message}");
        };
        check(path, "it has no recipe.ron");
        check(&path.join("nowhere"), "it does not exist");
        let run = path.join("run");
        fs::create_dir(&run).unwrap();
        fs::write(run.join(layout::RECIPE), "").unwrap();
        check(path, "it contains runs: give those instead");
        check(&run.join(layout::RECIPE), "it has no recipe.ron");
        let message = check_training_run(&run).unwrap_err().to_string();
        assert!(message.contains("run is not a training run"), "{message}");
        assert!(is_agent_of_run(&run.join("agents/writer")));
        assert!(!is_agent_of_run(&run.join("models/writer")) && !is_agent_of_run(Path::new("m")));
    }

    #[test]
    fn trained_steps_are_read_even_beside_unknown_keys() {
        let folder = tempfile::tempdir().unwrap();
        let run = folder.path();
        assert_eq!(trained_steps(run).unwrap(), None);
        for (text, expected) in [
            ("(steps: 7)\n", Some(7)),
            ("(steps: 8, more: \"x\")", Some(8)),
        ] {
            fs::write(run.join(layout::TRAINED), text).unwrap();
            assert_eq!(trained_steps(run).unwrap(), expected);
        }
        fs::write(run.join(layout::TRAINED), "(7)").unwrap();
        let error = trained_steps(run).unwrap_err();
        assert!(error.to_string().ends_with("trained.ron"), "{error}");
    }

    /// A run on disk, with these files besides its recipe.
    fn written(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in [(layout::RECIPE, fixture::TLDR)].iter().chain(files) {
            fs::write(folder.path().join(name), text).unwrap();
        }
        folder
    }

    #[test]
    fn a_run_of_an_older_program_is_read_and_reports_what_is_missing() {
        let metrics = "{\"step\":1,\"sampled_tokens\":9,\"summarizer/gradient_norm\":1.0}\n";
        // As the program wrote it before it wrote run.json.
        let evaluation = r#"{"step":0,"protocol":"parallel","return":{"mean":1.0,"interval":null},"parts":{},"pass_at":{},"roles":{"summarizer":{"response_tokens":3.0,"truncated_share":0.0},"elaborator":{"response_tokens":null,"truncated_share":null}},"tasks":1,"samples":1,"skipped_episodes":0,"cut_episodes":0,"sampled_tokens":3,"read_tokens":4,"timing":{"secs":1.0,"tokens_per_sec":3.0,"secs_per_task":1.0},"episodes":[{"task":"a","return":1.0,"parts":{},"solved":null,"turns":[["x","y"]]}]}"#;
        let folder = written(&[
            (layout::METRICS, metrics),
            (layout::EVALUATIONS, &format!("{evaluation}\n")),
            (layout::TRAINING, fixture::TLDR),
        ]);
        let run = Run::read(folder.path()).unwrap();
        assert_eq!(run.metrics[0]["summarizer/grad_norm"], 1.0);
        let evaluation = &run.evaluations[0];
        assert_eq!(
            (evaluation.completion_tokens, evaluation.prompt_tokens),
            (3, 4)
        );
        let summarizer = &evaluation.roles["summarizer"];
        assert_eq!(
            (summarizer.completion_length, summarizer.truncated_fraction),
            (3.0, 0.0)
        );
        assert_eq!(run.info.environment.label, "tldr");
        assert_eq!(run.info.environment.roles, ["summarizer", "elaborator"]);
        assert_eq!(run.info.algorithm.method, "MAGRPO");
        assert_eq!(run.info.training.unwrap().steps, 40);
        assert_eq!(run.training.unwrap(), run.settings);
        assert_eq!(run.missing.len(), 2, "{:?}", run.missing);
        assert!(run.missing[0].contains("no run.json"), "{:?}", run.missing);
        fs::remove_file(folder.path().join(layout::EVALUATIONS)).unwrap();
        let run = Run::read(folder.path()).unwrap();
        assert_eq!(run.info.environment.roles, ["summarizer"]);
    }

    #[test]
    fn the_role_of_a_single_agent_has_one_name_in_old_and_new_runs() {
        let metrics =
            r#"{"step":1,"solo/grad_norm":1.0,"solo":2.0,"timing":{"secs":3.0,"solo/secs":4.0}}"#;
        let evaluation = r#"{"step":0,"roles":{"solo":{"completion_length":3.0}},"episodes":[{"task":"a","roles":{"solo":{"return":1.0}}}]}"#;
        let [metrics, evaluation] = [metrics, evaluation].map(|line| format!("{line}\n"));
        let wrapped = fixture::TLDR.replacen("environment: Tldr", "environment: Solo(Tldr)", 1);
        assert_ne!(wrapped, fixture::TLDR);
        // A role of the same name in another environment is a user's.
        let user = r#"{"environment":{"name":"Alone","is_single_agent":true}}"#;
        let rows = [
            (wrapped.as_str(), "{}", "single"),
            (wrapped.as_str(), user, "solo"),
            (fixture::TLDR, "{}", "solo"),
        ];
        for (recipe, info, role) in rows {
            let folder = written(&[
                (layout::RECIPE, recipe),
                (layout::INFO, info),
                (layout::METRICS, &metrics),
                (layout::EVALUATIONS, &evaluation),
            ]);
            let run = Run::read(folder.path()).unwrap();
            assert_eq!(run.info.environment.roles, [role]);
            let names: Vec<&String> = run.metrics[0].keys().collect();
            assert_eq!(
                names,
                ["step", &format!("{role}/grad_norm"), "solo", "timing"]
            );
            assert_eq!(run.metrics[0]["timing"][format!("{role}/secs")], 4.0);
            let evaluation = &run.evaluations[0];
            assert_eq!(evaluation.roles[role].completion_length, 3.0);
            assert_eq!(evaluation.episodes[0].roles[role].episode_return, 1.0);
        }
    }

    #[test]
    fn a_recipe_of_another_program_may_have_more_or_fewer_settings() {
        let setting = "    precision: F32,\n";
        let [more, less] = ["    weather: Fine(wind: 3),\n", ""]
            .map(|replacement| fixture::TLDR.replacen(setting, replacement, 1));
        for recipe in [more, less] {
            assert_ne!(recipe, fixture::TLDR);
            let folder = written(&[(layout::RECIPE, &recipe)]);
            let run = Run::read(folder.path()).unwrap();
            assert_eq!(run.info.environment.label, "tldr");
        }
    }

    #[test]
    fn a_run_of_another_program_may_have_more_or_fewer_keys() {
        let info = json!({
            "program": {"name": "plates", "version": "2.0", "commit": "abc"},
            "environment": {"label": "plate", "weather": "fine"},
            "algorithm": {"method": "MINE"},
            "mood": ["good"],
        });
        let folder = written(&[(layout::INFO, &info.to_string())]);
        let run = Run::read(folder.path()).unwrap();
        assert_eq!(run.info.program.unwrap().name, "plates");
        let environment = &run.info.environment;
        // Missing keys come from the recipe.
        assert_eq!(
            (environment.label.as_str(), environment.name.as_str()),
            ("plate", "Tldr")
        );
        assert_eq!(
            (
                run.info.algorithm.method.as_str(),
                run.info.algorithm.discount
            ),
            ("MINE", 1.0)
        );
        assert_eq!((run.info.seed, run.info.steps), (1, 40));
        assert_eq!(run.missing, [""; 0]);
        let folder = written(&[(layout::INFO, "{\"seed\": \"one\"}")]);
        let error = Run::read(folder.path()).unwrap_err();
        assert!(error.to_string().ends_with("run.json"), "{error}");
        assert!(error.source().unwrap().to_string().contains("expected u64"));
    }
}
