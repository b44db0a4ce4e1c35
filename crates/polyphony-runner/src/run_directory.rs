//! What a run leaves behind.

use std::{
    fs::{self, File},
    io::{self, BufWriter, ErrorKind, Write as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use polyphony_marl::{AgentGroup, Branch, Node, Rollout};
use polyphony_sandbox::Pool;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::{evaluation::Evaluation, recipe::Recipe, team::Team};

/// The directory of one run: `recipe.ron`, `metrics.jsonl`, `rollouts.jsonl`, `evaluation.json`,
/// `agents/<role>`, and `sandbox.json` where programs are run.
#[derive(Debug)]
pub(crate) struct RunDirectory {
    path: PathBuf,
    metrics: BufWriter<File>,
    rollouts: BufWriter<File>,
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
        let context = || format!("beginning the run in {}", path.display());
        fs::write(path.join("recipe.ron"), recipe.to_ron()).with_context(context)?;
        let create = |name: &str| {
            File::create_new(path.join(name))
                .map(BufWriter::new)
                .with_context(context)
        };
        Ok(Self {
            path: path.to_owned(),
            metrics: create("metrics.jsonl")?,
            rollouts: create("rollouts.jsonl")?,
        })
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
        self.save_object("sandbox.json", &object)
    }

    /// Writes a JSON file as a whole, in place of one that is there.
    fn save_object(&self, name: &str, object: &Value) -> Result<()> {
        let path = self.path.join(name);
        let write = || {
            let mut file = tempfile::NamedTempFile::new_in(&self.path)?;
            writeln!(file, "{object:#}")?;
            make_readable(file.as_file())?;
            file.persist(&path).map_err(|error| error.error)
        };
        write().with_context(|| format!("writing {}", path.display()))?;
        Ok(())
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
        for node in rollout.nodes.iter().flat_map(Node::nodes) {
            write_line(&mut self.rollouts, &node_object(step, node)).with_context(context)?;
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
        self.save_object(
            "evaluation.json",
            &json!({ "before": before, "after": after }),
        )
    }

    /// Saves every agent as a Hugging Face directory; returns where.
    ///
    /// # Errors
    /// If the disk is full or gone.
    pub(crate) fn save_agents(&self, team: &Team) -> Result<Vec<PathBuf>> {
        let save = |(agent, assets): (&polyphony_marl::Agent, _)| {
            let path = self.path.join("agents").join(&agent.name);
            agent.model.save(&path, assets)?;
            Ok(path)
        };
        team.with_assets().map(save).collect()
    }
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

/// A node with everything needed to score it again.
fn node_object(step: usize, node: &Node) -> Value {
    let agent = |group: &AgentGroup| {
        let responses = group.samples.iter().map(|sample| {
            let response = &sample.response;
            json!({
                "text": response.text,
                "tokens": response.tokens,
                "finish": response.finish,
                "logprobs": sample.logprobs,
            })
        });
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
        "agents": node.groups.iter().map(agent).collect::<Vec<_>>(),
        "joint_actions": node.branches.iter().map(branch).collect::<Vec<_>>(),
    })
}
