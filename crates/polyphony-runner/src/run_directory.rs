//! What a run leaves behind.

use std::{
    fs::{self, File, TryLockError},
    io::{self, BufWriter, ErrorKind, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail, ensure};
use polyphony_marl::{AgentGroup, Branch, Node, Rollout, Sample};
use polyphony_sandbox::Pool;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::{evaluation::Evaluation, events, recipe::Recipe, run_files, team::Team};

/// The directory of one run: `recipe.ron`, `metrics.jsonl`, `rollouts.jsonl`, `evaluations.jsonl`,
/// `tensorboard`, `checkpoints/step-<step>`, `agents/<role>` with `trained.ron`, and `sandbox.json` where
/// programs are run.
#[derive(Debug)]
pub(crate) struct RunDirectory {
    path: PathBuf,
    metrics: BufWriter<File>,
    rollouts: BufWriter<File>,
    evaluations: BufWriter<File>,
    events: BufWriter<File>,
}

/// How long the files are that steps are written to, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Lengths {
    metrics: u64,
    rollouts: u64,
    evaluations: u64,
    events: u64,
}

impl RunDirectory {
    /// Makes the directory and writes the resolved recipe; without a path, a new one below
    /// `runs`, named after the environment.
    ///
    /// # Errors
    /// If it exists already or cannot be written.
    pub(crate) fn create(path: Option<&Path>, recipe: &Recipe) -> Result<Self> {
        let path = match path {
            Some(path) => make_new(path)?,
            None => make_numbered(&recipe.environment.name())?,
        };
        Self::begin(&path, recipe).inspect_err(|_| {
            // Nothing is in it that anyone could miss.
            let _ = fs::remove_dir_all(&path);
        })
    }

    /// Writes what a run begins with into an empty directory.
    fn begin(path: &Path, recipe: &Recipe) -> Result<Self> {
        save_text(path, run_files::RECIPE, &recipe.to_ron())?;
        let mut run = Self::open(path, Lengths::default())?;
        run.cut(Lengths::default())?;
        Ok(run)
    }

    /// Goes on in a directory that has a recipe, with files of at least these lengths. Nothing is
    /// changed yet: see [`RunDirectory::cut`].
    ///
    /// # Errors
    /// If the files are shorter, another process writes them, or they cannot be written.
    pub(crate) fn open(path: &Path, lengths: Lengths) -> Result<Self> {
        let events = path.join(run_files::EVENTS);
        if let Some(folder) = events.parent() {
            fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        }
        Ok(Self {
            path: path.to_owned(),
            metrics: locked(&path.join(run_files::METRICS), lengths.metrics)?,
            rollouts: locked(&path.join(run_files::ROLLOUTS), lengths.rollouts)?,
            evaluations: locked(&path.join(run_files::EVALUATIONS), lengths.evaluations)?,
            events: locked(&events, lengths.events)?,
        })
    }

    /// Cuts off what stands in the files beyond these lengths.
    ///
    /// # Errors
    /// If the disk is gone.
    pub(crate) fn cut(&mut self, lengths: Lengths) -> Result<()> {
        let cut = |file: &mut BufWriter<File>, length| {
            file.get_ref().set_len(length)?;
            file.seek(SeekFrom::Start(length)).map(drop)
        };
        cut(&mut self.metrics, lengths.metrics)
            .and_then(|()| cut(&mut self.rollouts, lengths.rollouts))
            .and_then(|()| cut(&mut self.evaluations, lengths.evaluations))
            .and_then(|()| cut(&mut self.events, lengths.events))
            .and_then(|()| match lengths.events {
                0 => events::begin(&mut self.events),
                _ => Ok(()),
            })
            .with_context(|| format!("cutting the files of {}", self.path.display()))
    }

    /// Makes all steps that were recorded durable; returns how long their files are.
    ///
    /// # Errors
    /// If the disk is full or gone.
    pub(crate) fn sync(&mut self) -> Result<Lengths> {
        let sync = |file: &mut BufWriter<File>| {
            file.flush()?;
            file.get_ref().sync_all()?;
            Ok::<_, io::Error>(file.get_ref().metadata()?.len())
        };
        let context = || format!("writing to {}", self.path.display());
        Ok(Lengths {
            metrics: sync(&mut self.metrics).with_context(context)?,
            rollouts: sync(&mut self.rollouts).with_context(context)?,
            evaluations: sync(&mut self.evaluations).with_context(context)?,
            events: sync(&mut self.events).with_context(context)?,
        })
    }

    /// Writes the recipe anew, which has changed in what a run may change.
    ///
    /// # Errors
    /// If the disk is full or gone.
    pub(crate) fn save_recipe(&self, recipe: &Recipe) -> Result<()> {
        save_text(&self.path, run_files::RECIPE, &recipe.to_ron())
    }

    /// Writes down how programs of the models are confined, and what the sandbox's self-test saw.
    ///
    /// # Errors
    /// If the disk is full or gone.
    pub(crate) fn save_sandbox(&self, pool: &Pool) -> Result<()> {
        let object = json!({
            "tier": pool.tier(),
            "interpreter": pool.interpreter(),
            "self_test": pool.report(),
        });
        save_text(&self.path, "sandbox.json", &format!("{object:#}\n"))
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Adds a step's figures and rollout.
    ///
    /// # Errors
    /// If the disk is full or gone.
    pub(crate) fn record(
        &mut self,
        step: usize,
        metrics: &Map<String, Value>,
        rollout: &Rollout,
    ) -> Result<()> {
        let context = || format!("writing to {}", self.path.display());
        write_line(&mut self.metrics, metrics).with_context(context)?;
        events::add(&mut self.events, step, metrics).with_context(context)?;
        for root in &rollout.nodes {
            for (path, node) in paths(root) {
                let object = node_object(step, &path, node);
                write_line(&mut self.rollouts, &object).with_context(context)?;
            }
        }
        self.metrics
            .flush()
            .and_then(|()| self.rollouts.flush())
            .and_then(|()| self.events.flush())
            .with_context(context)
    }

    /// Adds what came of an evaluation.
    ///
    /// # Errors
    /// If the disk is full or gone.
    pub(crate) fn record_evaluation(&mut self, evaluation: &Evaluation) -> Result<()> {
        let step = evaluation.step.unwrap_or_default();
        write_line(&mut self.evaluations, evaluation)
            .and_then(|()| events::add(&mut self.events, step, &evaluation.figures()))
            // A run counts as complete by its evaluations, so they come last.
            .and_then(|()| self.events.flush())
            .and_then(|()| self.evaluations.flush())
            .with_context(|| format!("writing to {}", self.path.display()))
    }

    /// Saves every agent as a Hugging Face directory, in place of one that is there, and the number of
    /// training steps that they have had, as far as it is known; returns where.
    ///
    /// # Errors
    /// If the disk is full or gone.
    pub(crate) fn save_agents(&self, team: &Team, steps: Option<usize>) -> Result<Vec<PathBuf>> {
        let folder = self.path.join("agents");
        let save = |(agent, assets): (&polyphony_marl::Agent, _)| {
            let path = folder.join(&agent.name);
            let replaced = path.exists();
            let saved = match replaced {
                true => folder.join(format!("{REPLACING}{}", agent.name)),
                false => path.clone(),
            };
            agent.model.save(&saved, assets)?;
            if replaced {
                fs::remove_dir_all(&path)
                    .and_then(|()| fs::rename(&saved, &path))
                    .with_context(|| format!("replacing {}", path.display()))?;
            }
            Ok(path)
        };
        remove_unfinished(&folder)?;
        let trained = self.path.join(run_files::TRAINED);
        // Not while some agents are old and some are new.
        match fs::remove_file(&trained) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).with_context(|| format!("removing {}", trained.display()))?;
            }
            _ => {}
        }
        let saved = team.with_assets().map(save).collect::<Result<_>>()?;
        if let Some(steps) = steps {
            replace_text(&trained, &format!("(steps: {steps})\n"))?;
        }
        Ok(saved)
    }
}

/// How the name of an agent begins that will take the place of another.
const REPLACING: &str = ".new-";

/// Removes what was being written to a folder when the run was killed: all folders whose names begin
/// with a dot.
pub(crate) fn remove_unfinished(folder: &Path) -> Result<()> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        entries => entries.with_context(|| format!("reading {}", folder.display()))?,
    };
    for entry in entries {
        let entry = entry?;
        let path = entry.path();
        if entry.file_name().to_string_lossy().starts_with('.') && path.is_dir() {
            fs::remove_dir_all(&path).with_context(|| format!("removing {}", path.display()))?;
        }
    }
    Ok(())
}

/// A file of the run, which has at least this length, locked until it is closed where that is possible.
fn locked(path: &Path, length: u64) -> Result<BufWriter<File>> {
    let open = || {
        let mut options = File::options();
        let file = options
            .create(true)
            .truncate(false)
            .write(true)
            .open(path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => bail!("another process is writing it"),
            // Some file systems have no locks.
            Err(TryLockError::Error(error)) => log::debug!("{}: {error}", path.display()),
        }
        let found = file.metadata()?.len();
        if found < length {
            bail!(
                "it has {found} bytes, but had {length} when the checkpoint was made: go on from an \
                 earlier one with --from"
            );
        }
        Ok(BufWriter::new(file))
    };
    open().with_context(|| format!("opening {}", path.display()))
}

/// Writes one of a directory's files as a whole.
fn save_text(folder: &Path, name: &str, text: &str) -> Result<()> {
    replace_text(&folder.join(name), text)
}

/// Writes a text file as a whole, in place of one that is there.
///
/// # Errors
/// If its folder is not there, or the disk is full or gone.
pub(crate) fn replace_text(path: &Path, text: &str) -> Result<()> {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    // The error of a temporary file would name that one.
    ensure!(
        folder.is_dir(),
        "{} cannot be written: there is no folder {}",
        path.display(),
        folder.display()
    );
    let write = || {
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(text.as_bytes())?;
        make_readable(file.as_file())?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|error| error.error)
    };
    write().with_context(|| format!("writing {}", path.display()))?;
    Ok(())
}

/// Gives a temporary file, which is private, the usual permissions.
fn make_readable(file: &File) -> io::Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        file.set_permissions(fs::Permissions::from_mode(0o644))?;
    }
    #[cfg(not(unix))]
    let _ = file;
    Ok(())
}

/// Makes a directory; `false` if it exists, also if another run has made it a moment ago.
fn make(path: &Path) -> Result<bool> {
    let context = || format!("making the run directory {}", path.display());
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).with_context(context)?;
    }
    match fs::create_dir(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error).with_context(context),
    }
}

/// Refuses a path that [`make_new`] would refuse later, after long work.
///
/// # Errors
/// If it exists already.
pub(crate) fn check_new(path: &Path) -> Result<()> {
    ensure!(
        !path.exists(),
        "the run directory {} exists already: give another with --run-dir, or remove it",
        path.display()
    );
    Ok(())
}

/// Makes a directory that must not be there yet.
///
/// # Errors
/// If it exists already or cannot be made.
pub(crate) fn make_new(path: &Path) -> Result<PathBuf> {
    if !make(path)? {
        check_new(path)?;
    }
    Ok(path.to_owned())
}

/// Makes the first of `runs/tldr-1`, `runs/tldr-2`, … that is free, for the name `tldr`.
///
/// # Errors
/// If it cannot be made.
pub(crate) fn make_numbered(name: &str) -> Result<PathBuf> {
    let mut number = 1;
    loop {
        let path = Path::new("runs").join(format!("{name}-{number}"));
        if make(&path)? {
            return Ok(path);
        }
        number += 1;
    }
}

/// Fills a directory with an evaluation outside of training, the recipe that it followed, and that of the
/// team's training, where there was one.
///
/// # Errors
/// If the disk is full or gone; the directory is removed then.
pub(crate) fn save_evaluation(
    path: &Path,
    recipe: &Recipe,
    training: Option<&Recipe>,
    evaluation: &Evaluation,
) -> Result<()> {
    let write = || {
        save_text(path, run_files::RECIPE, &recipe.to_ron())?;
        if let Some(training) = training {
            save_text(path, run_files::TRAINING, &training.to_ron())?;
        }
        let line = serde_json::to_string(evaluation)? + "\n";
        save_text(path, run_files::EVALUATIONS, &line)
    };
    write().inspect_err(|_| {
        // Nothing is in it that anyone could miss.
        let _ = fs::remove_dir_all(path);
    })
}

fn write_line(file: &mut BufWriter<File>, object: &impl Serialize) -> std::io::Result<()> {
    serde_json::to_writer(&mut *file, object)?;
    file.write_all(b"\n")
}

/// A node and all below it, each with the indices of the joint actions that lead to it.
fn paths(root: &Node) -> Vec<(Vec<usize>, &Node)> {
    let mut found = vec![(Vec::new(), root)];
    for (index, branch) in root.branches.iter().enumerate() {
        let below = branch.child.iter().flat_map(paths);
        found.extend(below.map(|(path, node)| ([&[index], path.as_slice()].concat(), node)));
    }
    found
}

/// A node with everything needed to score it again.
fn node_object(step: usize, path: &[usize], node: &Node) -> Value {
    let agent = |group: &AgentGroup| {
        let responses = group.samples.iter().map(sample_object);
        json!({
            "observation": group.observation.text,
            "prompt_tokens": group.history.tokens,
            "responses": responses.collect::<Vec<_>>(),
        })
    };
    let branch = |branch: &Branch| {
        let parts: Map<String, Value> = branch
            .reward
            .parts()
            .map(|(name, value)| (name.to_owned(), json!(value)))
            .collect();
        json!({ "picks": branch.picks, "reward": branch.reward.total(), "parts": parts })
    };
    json!({
        "step": step,
        "task": node.task,
        "turn": node.turn,
        "path": path,
        "agents": node.groups.iter().map(agent).collect::<Vec<_>>(),
        "joint_actions": node.branches.iter().map(branch).collect::<Vec<_>>(),
    })
}

fn sample_object(sample: &Sample) -> Value {
    let response = &sample.response;
    let mut object = json!({
        "text": response.text,
        "tokens": response.tokens,
        "finish": response.finish,
        "logprobs": sample.logprobs,
    });
    if !sample.reference_logprobs.is_empty() {
        object["reference_logprobs"] = json!(sample.reference_logprobs);
    }
    object
}
