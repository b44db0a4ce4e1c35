//! What a run leaves behind.

use std::{
    fs::{self, File, TryLockError},
    io::{self, BufWriter, ErrorKind, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use polyphony_marl::{AgentGroup, Branch, Node, Rollout, Sample};
use polyphony_sandbox::Pool;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::{evaluation::Evaluation, recipe::Recipe, team::Team};

/// The directory of one run: `recipe.ron`, `metrics.jsonl`, `rollouts.jsonl`, `evaluation.json`,
/// `checkpoints/step-<step>`, `agents/<role>`, and `sandbox.json` where programs are run.
#[derive(Debug)]
pub(crate) struct RunDirectory {
    path: PathBuf,
    metrics: BufWriter<File>,
    rollouts: BufWriter<File>,
}

/// How long the files are that steps are written to, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Lengths {
    metrics: u64,
    rollouts: u64,
}

impl RunDirectory {
    /// Makes the directory and writes the resolved recipe; without a path, a new one below
    /// `runs`, named after the environment.
    ///
    /// # Errors
    /// If it exists already or cannot be written.
    pub(crate) fn create(path: Option<&Path>, recipe: &Recipe) -> Result<Self> {
        let path = match path {
            Some(path) if make(path)? => path.to_owned(),
            Some(path) => bail!(exists_already(path)),
            None => make_numbered(recipe)?,
        };
        Self::begin(&path, recipe).inspect_err(|_| {
            // Nothing is in it that anyone could miss.
            let _ = fs::remove_dir_all(&path);
        })
    }

    /// Refuses a path that [`RunDirectory::create`] would refuse later, after long work.
    ///
    /// # Errors
    /// If it exists already.
    pub(crate) fn check(path: Option<&Path>) -> Result<()> {
        match path {
            Some(path) if path.exists() => bail!(exists_already(path)),
            _ => Ok(()),
        }
    }

    /// Writes what a run begins with into an empty directory.
    fn begin(path: &Path, recipe: &Recipe) -> Result<Self> {
        save_text(path, "recipe.ron", &recipe.to_ron())?;
        Self::open(path, Lengths::default())
    }

    /// Goes on in a directory that has a recipe, with files of at least these lengths. Nothing is
    /// changed yet: see [`RunDirectory::cut`].
    ///
    /// # Errors
    /// If the files are shorter, another process writes them, or they cannot be written.
    pub(crate) fn open(path: &Path, lengths: Lengths) -> Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            metrics: locked(&path.join("metrics.jsonl"), lengths.metrics)?,
            rollouts: locked(&path.join("rollouts.jsonl"), lengths.rollouts)?,
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
        })
    }

    /// Writes the recipe anew, which has changed in what a run may change.
    ///
    /// # Errors
    /// If the disk is full or gone.
    pub(crate) fn save_recipe(&self, recipe: &Recipe) -> Result<()> {
        save_text(&self.path, "recipe.ron", &recipe.to_ron())
    }

    /// Whether a run has been trained and evaluated to its end.
    ///
    /// # Errors
    /// If its evaluations are there but cannot be read.
    pub(crate) fn is_complete(path: &Path) -> Result<bool> {
        let path = path.join("evaluation.json");
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
            text => text.with_context(|| format!("reading {}", path.display()))?,
        };
        let saved: Value =
            serde_json::from_str(&text).with_context(|| format!("reading {}", path.display()))?;
        Ok(!saved["after"].is_null())
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
        for root in &rollout.nodes {
            for (path, node) in paths(root) {
                let object = node_object(step, &path, node);
                write_line(&mut self.rollouts, &object).with_context(context)?;
            }
        }
        self.metrics
            .flush()
            .and_then(|()| self.rollouts.flush())
            .with_context(context)
    }

    /// Saves the evaluations before and after training, as far as there are any; in place of what was
    /// saved before.
    ///
    /// # Errors
    /// If the disk is full or gone.
    pub(crate) fn save_evaluations(
        &self,
        before: Option<&Evaluation>,
        after: Option<&Evaluation>,
    ) -> Result<()> {
        let object = json!({ "before": before, "after": after });
        save_text(&self.path, "evaluation.json", &format!("{object:#}\n"))
    }

    /// Saves every agent as a Hugging Face directory, in place of one that is there; returns where.
    ///
    /// # Errors
    /// If the disk is full or gone.
    pub(crate) fn save_agents(&self, team: &Team) -> Result<Vec<PathBuf>> {
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
        team.with_assets().map(save).collect()
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

/// Writes a text file as a whole, in place of one that is there.
fn save_text(folder: &Path, name: &str, text: &str) -> Result<()> {
    let path = folder.join(name);
    let write = || {
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(text.as_bytes())?;
        make_readable(file.as_file())?;
        file.as_file().sync_all()?;
        file.persist(&path).map_err(|error| error.error)
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

/// Makes the first of `runs/tldr-1`, `runs/tldr-2`, … that is free.
fn make_numbered(recipe: &Recipe) -> Result<PathBuf> {
    let name = recipe.environment.name();
    let mut number = 1;
    loop {
        let path = Path::new("runs").join(format!("{name}-{number}"));
        if make(&path)? {
            return Ok(path);
        }
        number += 1;
    }
}

fn exists_already(path: &Path) -> String {
    format!(
        "the run directory {} exists already: give another with --run-dir, or remove it",
        path.display()
    )
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
