//! Writes the directory of a run.

use std::{
    ffi::OsStr,
    fs::{self, DirEntry, File, TryLockError},
    io::{self, BufWriter, ErrorKind, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
};

use polyphony_episode::Metric;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    error::{ReportError, Result},
    evaluation::EvaluationRecord,
    events,
    files::{UNFINISHED, make, make_numbered, replace_text},
    info::RunInfo,
    layout,
    metrics::{MetricCatalog, line, numbers},
    read::check_regular,
    records::CheckpointedFile,
    run::{Run, catalog},
};

/// The folder of runs for which no path was given. They are numbered.
const RUNS: &str = "runs";

/// The directory of a run that is being written: `recipe.ron`, `run.json`, `metrics.jsonl` with
/// `metrics.json`, `rollouts.jsonl`, `evaluations.jsonl` and `tensorboard`.
///
/// Checkpoints and saved agents are in the directory too, but the training loop writes them.
#[derive(Debug)]
pub struct RunDirectory {
    path: PathBuf,
    metrics: BufWriter<File>,
    rollouts: BufWriter<File>,
    evaluations: BufWriter<File>,
    events: BufWriter<File>,
    /// `metrics.json`.
    catalog: MetricCatalog,
}

/// The lengths of the files that grow with every step, in bytes. A checkpoint stores them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FileLengths {
    metrics: u64,
    rollouts: u64,
    evaluations: u64,
    events: u64,
}

/// A node of a rollout, preceded by the number of its step.
#[derive(Serialize)]
struct RolloutLine<'a, T> {
    step: usize,
    #[serde(flatten)]
    node: &'a T,
}

impl RunDirectory {
    /// Makes the directory and writes the resolved recipe. Without a path, makes a new directory below
    /// `runs`, named after the environment.
    ///
    /// # Errors
    /// If the path is not [free](check_free), another process is starting a run there, or the directory
    /// cannot be written.
    pub fn create(path: Option<&Path>, recipe: &str, info: &RunInfo) -> Result<Self> {
        let (path, is_new) = match path {
            Some(path) => (path.to_owned(), make(path)?),
            None => (
                make_numbered(Path::new(RUNS), &info.environment.label)?,
                true,
            ),
        };
        if !is_new {
            check_free(&path)?;
        }
        Self::begin(&path, recipe, info).inspect_err(|error| {
            // A new directory holds nothing of value, unless another process has begun a run there.
            if is_new && !matches!(error, ReportError::Locked { .. }) {
                let _ = fs::remove_dir_all(&path);
            }
        })
    }

    /// Writes the files that a run begins with: first the empty records, then the recipe, which makes the
    /// directory a run. If the program is killed before the recipe is there, the directory counts as free; if
    /// it is killed later, the run can be resumed.
    fn begin(path: &Path, recipe: &str, info: &RunInfo) -> Result<Self> {
        let mut run = Self::open(path, FileLengths::default())?;
        run.save_recipe(recipe)?;
        run.truncate(FileLengths::default())?;
        run.save_info(info)?;
        Ok(run)
    }

    /// Opens the files of a run's directory. `lengths` are their lengths when the checkpoint was made. A
    /// missing file is made if its length was 0. The contents are not changed yet: see
    /// [`RunDirectory::truncate`].
    ///
    /// # Errors
    /// If a file that was not empty is missing, another process is writing the files, or they cannot be
    /// written.
    pub fn open(path: &Path, lengths: FileLengths) -> Result<Self> {
        let tensorboard = path.join(layout::TENSORBOARD);
        let files = [
            (path.join(layout::METRICS), lengths.metrics),
            (path.join(layout::ROLLOUTS), lengths.rollouts),
            (path.join(layout::EVALUATIONS), lengths.evaluations),
            (tensorboard.join(layout::EVENT_FILE), lengths.events),
        ];
        // Checked before anything is made, so that a run with a lost file stays as it was found.
        let is_lost = |(path, length): &&(PathBuf, u64)| *length > 0 && !path.exists();
        if let Some((path, length)) = files.iter().find(is_lost) {
            return Err(ReportError::Changed {
                path: path.clone(),
                reason: format!("it is missing, but had {length} bytes"),
            });
        }
        fs::create_dir_all(&tensorboard).map_err(ReportError::io("making", &tensorboard))?;
        let [metrics, rollouts, evaluations, events] = files.map(|(path, _)| path);
        Ok(Self {
            path: path.to_owned(),
            metrics: locked(&metrics)?,
            rollouts: locked(&rollouts)?,
            evaluations: locked(&evaluations)?,
            events: locked(&events)?,
            catalog: catalog(path)?.unwrap_or_default(),
        })
    }

    /// Checks that the files begin with the records of this many steps, and that these records have these
    /// lengths.
    ///
    /// # Errors
    /// If a file has been changed since the checkpoint; the error names the file and the change.
    pub fn check(&self, steps: usize, lengths: FileLengths) -> Result<()> {
        self.checkpointed(layout::METRICS, &self.metrics, lengths.metrics)
            .check_metrics(steps)?;
        self.checkpointed(layout::ROLLOUTS, &self.rollouts, lengths.rollouts)
            .check_rollouts(steps)?;
        self.checkpointed(layout::EVALUATIONS, &self.evaluations, lengths.evaluations)
            .check_evaluations(steps)?;
        let events = format!("{}/{}", layout::TENSORBOARD, layout::EVENT_FILE);
        self.checkpointed(&events, &self.events, lengths.events)
            .check_events()
    }

    fn checkpointed<'a>(
        &self,
        name: &str,
        file: &'a BufWriter<File>,
        length: u64,
    ) -> CheckpointedFile<'a> {
        CheckpointedFile {
            path: self.path.join(name),
            file: file.get_ref(),
            length,
        }
    }

    /// Truncates the files to these lengths, which must have been [checked](RunDirectory::check).
    ///
    /// # Errors
    /// If the disk is gone.
    pub fn truncate(&mut self, lengths: FileLengths) -> Result<()> {
        let truncate = |file: &mut BufWriter<File>, length| {
            file.get_ref().set_len(length)?;
            file.seek(SeekFrom::Start(length)).map(drop)
        };
        truncate(&mut self.metrics, lengths.metrics)
            .and_then(|()| truncate(&mut self.rollouts, lengths.rollouts))
            .and_then(|()| truncate(&mut self.evaluations, lengths.evaluations))
            .and_then(|()| truncate(&mut self.events, lengths.events))
            .and_then(|()| match lengths.events {
                0 => events::begin(&mut self.events),
                _ => Ok(()),
            })
            .map_err(ReportError::io("cutting the files of", &self.path))
    }

    /// Makes all recorded steps durable on disk. Returns the lengths of the files.
    ///
    /// # Errors
    /// If the disk is full or gone.
    pub fn sync(&mut self) -> Result<FileLengths> {
        let sync = |file: &mut BufWriter<File>| {
            file.flush()?;
            file.get_ref().sync_all()?;
            Ok::<_, io::Error>(file.get_ref().metadata()?.len())
        };
        let mut sync_all = || {
            Ok(FileLengths {
                metrics: sync(&mut self.metrics)?,
                rollouts: sync(&mut self.rollouts)?,
                evaluations: sync(&mut self.evaluations)?,
                events: sync(&mut self.events)?,
            })
        };
        sync_all().map_err(ReportError::io("writing to", &self.path))
    }

    /// The path of the directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Replaces the recipe, for example after a change of settings that may change during a run.
    ///
    /// # Errors
    /// If the disk is full or gone.
    pub fn save_recipe(&self, recipe: &str) -> Result<()> {
        replace_text(&self.path.join(layout::RECIPE), recipe)
    }

    /// Writes what the run reports about itself, as `run.json`.
    ///
    /// # Errors
    /// If the disk is full or gone.
    pub fn save_info(&self, info: &RunInfo) -> Result<()> {
        save_json(&self.path.join(layout::INFO), info)
    }

    /// Writes the environment's description, as `environment.json`.
    ///
    /// # Errors
    /// If the disk is full or gone.
    pub fn save_environment(&self, description: &Value) -> Result<()> {
        save_json(&self.path.join(layout::ENVIRONMENT), description)
    }

    /// Adds the metrics and the rollouts of a step, counted from 1. Each item of `rollouts` must serialize as
    /// a map or a struct; `step` is put before its fields.
    ///
    /// # Errors
    /// If two metrics have the same name, or the disk is full or gone.
    pub fn record<T: Serialize>(
        &mut self,
        step: usize,
        metrics: &[Metric],
        rollouts: impl IntoIterator<Item = T>,
    ) -> Result<()> {
        let line = line(step, metrics).map_err(|name| ReportError::SameName { step, name })?;
        if self.catalog.add(metrics) {
            save_json(&self.path.join(layout::CATALOG), &self.catalog)?;
        }
        let write = || {
            write_line(&mut self.metrics, &line)?;
            events::add(&mut self.events, step, numbers(metrics))?;
            for node in rollouts {
                write_line(&mut self.rollouts, &RolloutLine { step, node: &node })?;
            }
            self.metrics.flush()?;
            self.rollouts.flush()?;
            self.events.flush()
        };
        write().map_err(ReportError::io("writing to", &self.path))
    }

    /// Adds an evaluation.
    ///
    /// # Errors
    /// If the disk is full or gone.
    pub fn record_evaluation(&mut self, evaluation: &EvaluationRecord) -> Result<()> {
        let step = evaluation.step.unwrap_or_default();
        let mut write = || {
            write_line(&mut self.evaluations, evaluation)?;
            events::add(&mut self.events, step, evaluation.scalars())?;
            self.events.flush()?;
            // Last, because readers consider a run complete once its final evaluation is there.
            self.evaluations.flush()
        };
        write().map_err(ReportError::io("writing to", &self.path))
    }
}

/// Refuses a path that is not free. [`RunDirectory::create`] does so too, but is called only
/// after long work.
///
/// A path is free if nothing is there, or an empty directory, or a directory with the empty files of a run
/// that was killed while it started.
///
/// # Errors
/// If anything else is there.
pub fn check_free(path: &Path) -> Result<()> {
    if !path.exists() || is_unfinished_start(path).unwrap_or(false) {
        return Ok(());
    }
    Err(ReportError::Exists {
        path: path.to_owned(),
    })
}

/// Whether a directory holds nothing except files that [`RunDirectory::begin`] makes before the recipe.
fn is_unfinished_start(path: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let (path, kind) = (entry.path(), entry.file_type()?);
        let is_of_start = match path.file_name().and_then(OsStr::to_str) {
            // The temporary file of a recipe.
            Some(name) if name.starts_with(UNFINISHED) => kind.is_file(),
            Some(layout::METRICS | layout::ROLLOUTS | layout::EVALUATIONS) => {
                is_empty_file(&entry)?
            }
            Some(layout::TENSORBOARD) if kind.is_dir() => is_unfinished_start(&path)?,
            Some(layout::EVENT_FILE) => is_empty_file(&entry)?,
            _ => false,
        };
        if !is_of_start {
            return Ok(false);
        }
    }
    Ok(true)
}

fn is_empty_file(entry: &DirEntry) -> io::Result<bool> {
    Ok(entry.file_type()?.is_file() && entry.metadata()?.len() == 0)
}

/// Records how many training steps the saved agents of a run have had. Pass `None`
/// before saving agents, so that no record exists while only some of them have been replaced.
///
/// # Errors
/// If the disk is full or gone.
pub fn save_trained_steps(run: &Path, steps: Option<usize>) -> Result<()> {
    let path = run.join(layout::TRAINED);
    if let Some(steps) = steps {
        return replace_text(&path, &format!("(steps: {steps})\n"));
    }
    match fs::remove_file(&path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(ReportError::io("removing", &path)(error))
        }
        _ => Ok(()),
    }
}

/// Writes an evaluation that is not part of a training run, with its recipe, into an empty directory. If a
/// run trained the team, the recipe and the info of that run are saved too.
///
/// # Errors
/// If the run that trained the team cannot be read, or the disk is full or gone. The directory is then
/// removed.
pub fn save_evaluation(
    path: &Path,
    recipe: &str,
    info: &RunInfo,
    trained_by: Option<&Path>,
    evaluation: &EvaluationRecord,
) -> Result<()> {
    let write = || {
        let mut info = info.clone();
        replace_text(&path.join(layout::RECIPE), recipe)?;
        if let Some(trained_by) = trained_by {
            let training = Run::read(trained_by)?;
            replace_text(&path.join(layout::TRAINING), &training.recipe)?;
            info.trained_from = Some(trained_by.display().to_string());
            info.training = Some(Box::new(training.info));
        }
        save_json(&path.join(layout::INFO), &info)?;
        let path = path.join(layout::EVALUATIONS);
        replace_text(
            &path,
            &format!("{}\n", json_text(&path, evaluation, false)?),
        )
    };
    write().inspect_err(|_| {
        // A new directory holds nothing of value.
        let _ = fs::remove_dir_all(path);
    })
}

fn json_text(path: &Path, object: &impl Serialize, is_pretty: bool) -> Result<String> {
    let text = match is_pretty {
        true => serde_json::to_string_pretty(object),
        false => serde_json::to_string(object),
    };
    text.map_err(|error| ReportError::io("writing", path)(error.into()))
}

fn save_json(path: &Path, object: &impl Serialize) -> Result<()> {
    replace_text(path, &format!("{}\n", json_text(path, object, true)?))
}

/// Opens a file of the run, and locks it until it is closed if the file system supports locks.
fn locked(path: &Path) -> Result<BufWriter<File>> {
    check_regular(path)?;
    let mut options = File::options();
    let file = options
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(path)
        .map_err(ReportError::io("opening", path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(ReportError::Locked {
                path: path.to_owned(),
            });
        }
        // Some file systems do not support locks.
        Err(TryLockError::Error(error)) => log::debug!("{}: {error}", path.display()),
    }
    Ok(BufWriter::new(file))
}

fn write_line(file: &mut BufWriter<File>, object: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *file, object)?;
    file.write_all(b"\n")
}

#[cfg(test)]
mod tests {
    use polyphony_episode::MetricKey;
    use serde_json::json;

    use super::*;
    use crate::{files, fixture, run};

    const EVENTS: &str = "tensorboard/events.out.tfevents.polyphony";

    fn metrics(step: usize) -> Vec<Metric> {
        let key = MetricKey::new;
        vec![
            Metric::new(key("return"), step as f64 / 2.0, "reward", "Mean return"),
            Metric::new(
                key("value_loss").of_role("writer"),
                f64::NAN,
                "reward²",
                "Loss",
            ),
            Metric::new(key("timing.step_secs"), 0.25, "s", "The whole step"),
        ]
    }

    fn created(folder: &Path) -> RunDirectory {
        let run = folder.join("run");
        RunDirectory::create(Some(&run), fixture::TLDR, &fixture::info(1)).unwrap()
    }

    fn text(run: &RunDirectory, name: &str) -> String {
        fs::read_to_string(run.path().join(name)).unwrap()
    }

    #[test]
    fn records_are_read_as_they_were_written() {
        let folder = tempfile::tempdir().unwrap();
        let mut directory = created(folder.path());
        directory
            .save_environment(&json!({"tier": "full"}))
            .unwrap();
        for step in 1..=2 {
            let nodes = [
                json!({"task": "a", "turn": 0}),
                json!({"task": "b", "turn": 1}),
            ];
            directory.record(step, &metrics(step), &nodes).unwrap();
        }
        let evaluation = fixture::evaluation(&[(1.5, "text")]);
        directory.record_evaluation(&evaluation).unwrap();
        assert_eq!(
            text(&directory, layout::METRICS),
            "{\"step\":1,\"return\":0.5,\"writer/value_loss\":null,\"timing\":{\"step_secs\":0.25}}\n\
             {\"step\":2,\"return\":1.0,\"writer/value_loss\":null,\"timing\":{\"step_secs\":0.25}}\n"
        );
        let rollouts = text(&directory, layout::ROLLOUTS);
        assert_eq!(
            rollouts.lines().next(),
            Some(r#"{"step":1,"task":"a","turn":0}"#)
        );
        assert_eq!(rollouts.lines().count(), 4);
        assert_eq!(
            text(&directory, layout::ENVIRONMENT),
            "{\n  \"tier\": \"full\"\n}\n"
        );
        let found = Run::read(directory.path()).unwrap();
        assert_eq!(
            (&found.info, found.evaluations),
            (&fixture::info(1), vec![evaluation])
        );
        assert_eq!(found.metrics.len(), 2);
        let (key, explanation) = found.catalog.find("writer/value_loss").unwrap();
        assert_eq!(key, MetricKey::new("value_loss").of_role("writer"));
        assert_eq!(
            (explanation.unit.as_str(), explanation.meaning.as_str()),
            ("reward²", "Loss")
        );
        let file = directory.path().join(EVENTS);
        let events = events::read(&fs::read(file).unwrap());
        let tags: Vec<&str> = events.iter().map(|(_, tag, _)| tag.as_str()).collect();
        assert_eq!(tags[..2], ["return", "timing.step_secs"]);
        assert!(tags.contains(&"held_out/return"), "{tags:?}");
    }

    #[test]
    fn a_run_that_is_cut_to_its_checkpoint_still_knows_its_metrics() {
        let folder = tempfile::tempdir().unwrap();
        let mut directory = created(folder.path());
        directory
            .record(1, &metrics(1), [json!({"task": "a"})])
            .unwrap();
        let lengths = directory.sync().unwrap();
        let before = [layout::METRICS, layout::ROLLOUTS].map(|name| text(&directory, name));
        let locked = RunDirectory::open(directory.path(), lengths)
            .unwrap_err()
            .to_string();
        assert!(
            locked.ends_with("metrics.jsonl: another process is writing it"),
            "{locked}"
        );
        let more = Metric::new(MetricKey::new("mood"), 1.0, "", "Mood");
        directory
            .record(2, &[more], [json!({"task": "b"})])
            .unwrap();
        drop(directory);

        let path = folder.path().join("run");
        let mut directory = RunDirectory::open(&path, lengths).unwrap();
        directory.check(1, lengths).unwrap();
        directory.truncate(lengths).unwrap();
        assert_eq!(directory.sync().unwrap(), lengths);
        let after = [layout::METRICS, layout::ROLLOUTS].map(|name| text(&directory, name));
        assert_eq!(after, before);
        directory
            .record(2, &metrics(2), [json!({"task": "b"})])
            .unwrap();
        let catalog = Run::read(&path).unwrap().catalog;
        let patterns: Vec<&str> = catalog.iter().map(|(pattern, _)| pattern).collect();
        assert_eq!(
            patterns,
            ["return", "<role>/value_loss", "timing.step_secs", "mood"]
        );
    }

    #[test]
    fn a_file_that_has_changed_since_a_checkpoint_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let mut directory = created(folder.path());
        let evaluation = fixture::evaluation(&[(1.5, "text")]);
        directory.record_evaluation(&evaluation).unwrap();
        for step in 1..=2 {
            directory
                .record(step, &metrics(step), [json!({"task": "a"})])
                .unwrap();
        }
        let lengths = directory.sync().unwrap();
        directory
            .record(3, &metrics(3), [json!({"task": "b"})])
            .unwrap();
        directory.check(2, lengths).unwrap();

        let [first, second] = ["{\"step\":1,", "{\"step\":2,"];
        let rows = [
            (
                layout::METRICS,
                first,
                "{\"stop\":1,",
                "metrics.jsonl, line 1",
            ),
            (
                layout::METRICS,
                first,
                second,
                "line 1 is of step 2, but must be of step 1",
            ),
            (
                layout::METRICS,
                second,
                first,
                "line 2 is of step 1, but must be of step 2",
            ),
            (layout::METRICS, "\n{", "{", "metrics.jsonl, line 1"),
            (
                layout::METRICS,
                "null",
                " null",
                "no line ends after its first",
            ),
            (
                layout::ROLLOUTS,
                first,
                "{\"step\":0,",
                "line 1 is of step 0, but must be of a step from 1 to 2",
            ),
            (
                layout::ROLLOUTS,
                second,
                "{\"step\":3,",
                "line 2 is of step 3, but must be of a step from 1 to 2",
            ),
            (
                layout::ROLLOUTS,
                "\"a\"",
                "\"än\"",
                "no line ends after its first",
            ),
            (layout::ROLLOUTS, "\"a\"", "\"a\\", "rollouts.jsonl, line 1"),
            (
                layout::EVALUATIONS,
                "\"return\"",
                "\"return ",
                "evaluations.jsonl, line 1",
            ),
            (
                layout::EVALUATIONS,
                "text",
                "a longer text",
                "no line ends after its first",
            ),
            (
                EVENTS,
                "timing",
                "tiMing",
                "a record in it is damaged or cut off",
            ),
            (
                EVENTS,
                "timing",
                "time",
                "a record in it is damaged or cut off",
            ),
        ];
        for (name, from, to, expected) in rows {
            let path = directory.path().join(name);
            let whole = fs::read(&path).unwrap();
            fs::write(&path, replaced(&whole, from, to)).unwrap();
            let message = directory.check(2, lengths).unwrap_err().to_string();
            assert!(
                message.starts_with(&format!("{}", path.display()))
                    || message.starts_with("reading "),
                "{message}"
            );
            assert!(message.contains(expected), "{message}\nlacks: {expected}");
            fs::write(&path, whole).unwrap();
        }
        for name in [
            layout::METRICS,
            layout::ROLLOUTS,
            layout::EVALUATIONS,
            EVENTS,
        ] {
            let path = directory.path().join(name);
            let whole = fs::read(&path).unwrap();
            fs::write(&path, &whole[..10]).unwrap();
            let message = directory.check(2, lengths).unwrap_err().to_string();
            assert!(message.contains("it has 10 bytes, but had"), "{message}");
            fs::write(&path, whole).unwrap();
        }
        directory.check(2, lengths).unwrap();
        // The lines after the checkpoint do not count as steps.
        directory.check(3, lengths).unwrap_err();
    }

    #[test]
    fn a_lost_file_is_named_and_not_made_again() {
        let folder = tempfile::tempdir().unwrap();
        let mut directory = created(folder.path());
        let none: [Value; 0] = [];
        directory.record(1, &metrics(1), none).unwrap();
        let lengths = directory.sync().unwrap();
        drop(directory);
        let run = folder.path().join("run");
        for name in [layout::METRICS, EVENTS] {
            let path = run.join(name);
            let whole = fs::read(&path).unwrap();
            fs::remove_file(&path).unwrap();
            let message = RunDirectory::open(&run, lengths).unwrap_err().to_string();
            let expected = format!(
                "{} has changed since the checkpoint was made: it is missing, but had {} bytes",
                path.display(),
                whole.len()
            );
            assert_eq!(message, expected);
            assert!(!path.exists(), "{name}");
            fs::write(&path, whole).unwrap();
        }
        // A file that was empty may be missing, and any file may be missing if the run begins again.
        fs::remove_file(run.join(layout::ROLLOUTS)).unwrap();
        drop(RunDirectory::open(&run, lengths).unwrap());
        assert!(run.join(layout::ROLLOUTS).exists());
        fs::remove_file(run.join(layout::METRICS)).unwrap();
        drop(RunDirectory::open(&run, FileLengths::default()).unwrap());
        assert!(run.join(layout::METRICS).exists());
    }

    /// The bytes with the first occurrence of a text replaced.
    fn replaced(bytes: &[u8], from: &str, to: &str) -> Vec<u8> {
        let at = bytes
            .windows(from.len())
            .position(|part| part == from.as_bytes());
        let at = at.unwrap_or_else(|| panic!("no {from}"));
        [&bytes[..at], to.as_bytes(), &bytes[at + from.len()..]].concat()
    }

    #[test]
    fn a_step_with_one_name_twice_is_refused_before_anything_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let mut directory = created(folder.path());
        let twice = [metrics(1), metrics(1)].concat();
        let error = directory
            .record(1, &twice, [json!({})])
            .unwrap_err()
            .to_string();
        assert_eq!(
            error,
            "step 1 has two metrics called `return`: give each a unique name"
        );
        assert_eq!(text(&directory, layout::METRICS), "");
    }

    /// A directory with these files and their contents.
    fn holding(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, contents) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, contents).unwrap();
        }
        folder
    }

    #[test]
    fn a_run_that_was_killed_while_it_started_can_start_again() {
        let rows: &[&[(&str, &str)]] = &[
            &[],
            &[(layout::METRICS, "")],
            &[
                (EVENTS, ""),
                (layout::METRICS, ""),
                (layout::EVALUATIONS, ""),
            ],
            &[
                (layout::ROLLOUTS, ""),
                (".polyphony-unfinished-x1Y2z3", "(seed: 1"),
            ],
        ];
        for files in rows {
            let folder = holding(files);
            check_free(folder.path()).unwrap();
            let info = fixture::info(1);
            let run = RunDirectory::create(Some(folder.path()), fixture::TLDR, &info).unwrap();
            assert_eq!(text(&run, layout::RECIPE), fixture::TLDR, "{files:?}");
            assert_eq!(Run::read(run.path()).unwrap().info, info, "{files:?}");
        }
    }

    #[test]
    fn a_directory_that_holds_anything_else_is_left_alone() {
        for (name, contents) in [
            ("notes.txt", ""),
            (".git/HEAD", ""),
            (layout::RECIPE, ""),
            (layout::METRICS, "{}\n"),
            ("tensorboard/notes.txt", ""),
            (".polyphony-unfinished-x/notes.txt", ""),
        ] {
            let folder = holding(&[(layout::ROLLOUTS, ""), (name, contents)]);
            let created = RunDirectory::create(Some(folder.path()), "()", &RunInfo::default());
            for error in [created.unwrap_err(), check_free(folder.path()).unwrap_err()] {
                assert!(
                    error.to_string().contains("exists already"),
                    "{name}: {error}"
                );
            }
            let found = fs::read_to_string(folder.path().join(name)).unwrap();
            assert_eq!(found, contents, "{name}");
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(check_free(file.path()).is_err());
    }

    #[test]
    fn a_directory_is_not_a_run_until_its_files_exist() {
        let folder = tempfile::tempdir().unwrap();
        // Another process has begun in the same directory.
        let _lock = locked(&folder.path().join(layout::METRICS)).unwrap();
        let created = RunDirectory::create(Some(folder.path()), "()", &RunInfo::default());
        assert!(matches!(created, Err(ReportError::Locked { .. })));
        assert!(!run::is_run(folder.path()));
    }

    #[test]
    fn lengths_may_lack_keys_and_have_unknown_ones() {
        let lengths: FileLengths = serde_json::from_str(r#"{"metrics": 3, "videos": 9}"#).unwrap();
        let expected = FileLengths {
            metrics: 3,
            ..FileLengths::default()
        };
        assert_eq!(lengths, expected);
    }

    #[test]
    fn an_evaluation_is_saved_with_the_training_of_its_team() {
        let folder = tempfile::tempdir().unwrap();
        let training = created(folder.path());
        let evaluation = fixture::evaluation(&[(1.5, "text")]);
        let save_and_read = |name: &str, trained_by: Option<&Path>| {
            let path = files::make_new(&folder.path().join(name)).unwrap();
            let info = fixture::info(2);
            save_evaluation(&path, fixture::TLDR, &info, trained_by, &evaluation)?;
            Run::read(&path)
        };
        let found = save_and_read("saved", Some(training.path())).unwrap();
        let expected = RunInfo {
            training: Some(Box::new(fixture::info(1))),
            trained_from: Some(training.path().display().to_string()),
            ..fixture::info(2)
        };
        assert_eq!(found.info, expected);
        assert_eq!(found.evaluations, std::slice::from_ref(&evaluation));
        assert!(found.metrics.is_empty() && found.training == Some(found.settings));
        // A baseline was not trained.
        let found = save_and_read("baseline", None).unwrap();
        assert_eq!((found.info, found.training), (fixture::info(2), None));
        // A failure leaves nothing behind.
        let error = save_and_read("failed", Some(Path::new("no/run"))).unwrap_err();
        assert!(error.to_string().starts_with("no/run is not"), "{error}");
        assert!(!folder.path().join("failed").exists());
    }

    #[test]
    fn trained_steps_are_recorded_only_while_all_agents_have_them() {
        let folder = tempfile::tempdir().unwrap();
        for steps in [None, Some(3), Some(4), None] {
            save_trained_steps(folder.path(), steps).unwrap();
            assert_eq!(run::trained_steps(folder.path()).unwrap(), steps);
        }
    }
}
