//! What a run leaves behind.

use std::{
    fs::{self, File},
    io::{BufWriter, ErrorKind, Write as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use polyphony_marl::{AgentGroup, Branch, Node, Rollout};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::{evaluation::Evaluation, recipe::Recipe, team::Team};

/// The directory of one run: `recipe.ron`, `metrics.jsonl`, `rollouts.jsonl`, `evaluation.json` and
/// `agents/<role>`.
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
        let path = path.map_or_else(|| free_path(recipe), Path::to_owned);
        let context = || format!("making the run directory {}", path.display());
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).with_context(context)?;
        }
        // Fails if it exists, also if another run has made it a moment ago.
        match fs::create_dir(&path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => bail!(
                "the run directory {} exists already: give another with --run-dir, or remove it",
                path.display()
            ),
            made => made.with_context(context)?,
        }
        fs::write(path.join("recipe.ron"), recipe.to_ron()).with_context(context)?;
        let create = |name: &str| {
            File::create_new(path.join(name))
                .map(BufWriter::new)
                .with_context(context)
        };
        let (metrics, rollouts) = (create("metrics.jsonl")?, create("rollouts.jsonl")?);
        Ok(Self {
            path,
            metrics,
            rollouts,
        })
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

    /// Saves the evaluations before and after training.
    ///
    /// # Errors
    /// If the disk is full or gone.
    pub(crate) fn save_evaluations(
        &self,
        before: Option<&Evaluation>,
        after: Option<&Evaluation>,
    ) -> Result<()> {
        let path = self.path.join("evaluation.json");
        let object = json!({ "before": before, "after": after });
        fs::write(&path, format!("{object:#}\n"))
            .with_context(|| format!("writing {}", path.display()))
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

/// The first of `runs/tldr-1`, `runs/tldr-2`, … that is free.
fn free_path(recipe: &Recipe) -> PathBuf {
    let name = format!("{:?}", recipe.environment).to_lowercase();
    let numbered = (1..).map(|number| Path::new("runs").join(format!("{name}-{number}")));
    numbered
        .into_iter()
        .find(|path| !path.exists())
        .unwrap_or_default()
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
