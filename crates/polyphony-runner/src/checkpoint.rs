//! Checkpoints: everything that a run needs to be resumed as if it had never stopped.
//!
//! A checkpoint is a directory `checkpoints/step-000020` of the run. It holds `state.ron`, one safetensors
//! file per agent with the trained weights, and `algorithm.safetensors` with the tensors of the
//! algorithm's state, such as an optimizer's moments. If the agents are spread over several ranks, the algorithm of
//! each part of them has a file of its own: `algorithm.safetensors`, `algorithm-1.safetensors`, … It is written under a temporary name, synced and
//! renamed, so a checkpoint is always complete. Random numbers and the order of tasks are not stored:
//! both follow from seed and step.

use std::{
    fs::{self, File},
    io::ErrorKind,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use burn::tensor::Tensor;
use polyphony_marl::{
    Agent, Algorithm, MarlError, Message, SavedState, StateTensor, StateTensors, Team, Updates,
};
use polyphony_model::{ModelError, TensorSpec, TensorValues, Weights, save_tensors};
use polyphony_report::{
    FileLengths, FlatSettings, ReportError, RunDirectory, read_text, remove_unfinished,
    ron_options, settings, unfinished,
};
use serde::{Deserialize, Serialize};

use crate::{
    changeable::Changeable,
    observer::BestAction,
    ranks::{agree, check_replicas, on_first},
    recipe::Recipe,
};

/// The version of the layout of a checkpoint.
const FORMAT: u64 = 3;

/// The version of the layout if the agents are spread over several ranks.
const FORMAT_OF_PARTS: u64 = 4;

const STATE: &str = "state.ron";

/// The file with the tensors of the algorithm's state for a part of the agents. No agent's file can have this name,
/// because the names of agents' files begin with `agent-`.
fn algorithm_file(part: usize) -> String {
    match part {
        0 => "algorithm.safetensors".to_owned(),
        _ => format!("algorithm-{part}.safetensors"),
    }
}

/// How far a run has come; the start of the run by default.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Position {
    /// The number of steps that are done.
    pub(crate) steps: usize,
    /// The lengths of the record files after these steps.
    #[serde(rename = "lengths")]
    pub(crate) file_lengths: FileLengths,
    /// The best joint action so far.
    #[serde(default)]
    pub(crate) best: Option<BestAction>,
}

/// Everything in a checkpoint except the tensors.
#[derive(Debug, Serialize, Deserialize)]
struct State {
    format: u64,
    /// The recipe's settings by their paths.
    settings: FlatSettings,
    position: Position,
    /// The agents of all parts.
    agents: Vec<String>,
    /// The algorithm's state without its tensors, for the first part of the agents.
    algorithm: String,
    /// The same for each other part.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    other_parts: Vec<String>,
}

/// The part of `state.ron` that every format version has.
#[derive(Debug, Deserialize)]
struct Header {
    format: u64,
}

fn folder(run: &Path) -> PathBuf {
    run.join("checkpoints")
}

fn name(steps: usize) -> String {
    format!("step-{steps:06}")
}

fn tensor_file(agent: &str) -> String {
    format!("agent-{agent}.safetensors")
}

/// Writes a checkpoint, then removes the oldest ones beyond the number to keep. All ranks call this function: the
/// first replica of each part of the agents writes their files, and rank 0 completes the checkpoint when all files
/// are there.
///
/// # Errors
/// If the disk is full or gone. Earlier checkpoints are not affected.
pub(crate) fn save(
    run: &Path,
    recipe: &Recipe,
    team: &Team,
    algorithm: &dyn Algorithm,
    position: &Position,
) -> Result<()> {
    let folder = folder(run);
    let target = folder.join(name(position.steps));
    let context = || {
        format!(
            "writing the checkpoint {}: if the disk is full, make room, then resume the run; it continues from \
             the newest complete checkpoint, or from the start if there is none",
            target.display()
        )
    };
    check_replicas(team)?;
    let ranks = team.ranks();
    let partial = unfinished(&target);
    let written = write(&partial, &target, recipe, team, algorithm, position);
    if written.is_err() && ranks.is_first() {
        // If the directory cannot be removed now, it is removed before the next checkpoint is written, or when
        // the run is resumed.
        let _ = fs::remove_dir_all(&partial);
    }
    written.with_context(context)?;
    on_first(ranks.world(), || prune(run, recipe.checkpoints.keep))?;
    Ok(())
}

fn write(
    partial: &Path,
    target: &Path,
    recipe: &Recipe,
    team: &Team,
    algorithm: &dyn Algorithm,
    position: &Position,
) -> Result<()> {
    let ranks = team.ranks();
    let folder = target.parent().context("a checkpoint is in a folder")?;
    on_first(ranks.world(), || {
        fs::create_dir_all(folder)?;
        remove_unfinished(folder)?;
        Ok(fs::create_dir(partial)?)
    })?;
    let write_held_part = || {
        if ranks.replicas().rank() > 0 {
            return Ok((Vec::new(), String::new()));
        }
        let state = algorithm.state(team)?;
        write_part(partial, team, ranks.part(), state.tensors)?;
        Ok((names(team), state.values))
    };
    let part = agree(ranks.world(), write_held_part())?;
    let parts: Vec<(Vec<String>, String)> = ranks.collect_parts(Message::Records, part)?;
    on_first(ranks.world(), || {
        let agents = parts.iter().flat_map(|(agents, _)| agents.clone());
        let mut values = parts.iter().map(|(_, values)| values.clone());
        let state = State {
            format: if parts.len() == 1 {
                FORMAT
            } else {
                FORMAT_OF_PARTS
            },
            settings: settings(&recipe.to_ron()),
            position: position.clone(),
            agents: agents.collect(),
            algorithm: values.next().unwrap_or_default(),
            other_parts: values.collect(),
        };
        let path = partial.join(STATE);
        // RON writes enough digits to read every number back unchanged.
        fs::write(&path, ron::to_string(&state)?)?;
        File::open(&path)?.sync_all()?;
        sync_folder(partial)?;
        fs::rename(partial, target)?;
        sync_folder(folder)
    })?;
    Ok(())
}

fn names(team: &Team) -> Vec<String> {
    team.iter().map(|agent| agent.name.clone()).collect()
}

/// Removes all but the newest `keep` checkpoints.
fn prune(run: &Path, keep: usize) -> Result<()> {
    let all = list(run)?;
    all.iter()
        .rev()
        .skip(keep)
        .try_for_each(|(_, old)| remove(old))
}

/// Removes a checkpoint. It is renamed first, so that no checkpoint is ever incomplete.
fn remove(checkpoint: &Path) -> Result<()> {
    let temporary = unfinished(checkpoint);
    fs::rename(checkpoint, &temporary)
        .and_then(|()| fs::remove_dir_all(&temporary))
        .with_context(|| format!("removing the checkpoint {}", checkpoint.display()))
}

/// Writes the files of one part of the agents.
fn write_part(
    partial: &Path,
    agents: &[Agent],
    part: usize,
    tensors: Vec<(TensorSpec, StateTensor)>,
) -> Result<()> {
    for agent in agents {
        let path = partial.join(tensor_file(&agent.name));
        let weights = agent.model.trainable_weights().into_iter();
        let weights = weights.map(|(spec, weight)| (spec, StateTensor::from(weight)));
        write_tensors(&path, &weights.collect::<Vec<_>>())?;
    }
    write_tensors(&partial.join(algorithm_file(part)), &tensors)
}

fn write_tensors(path: &Path, tensors: &[(TensorSpec, StateTensor)]) -> Result<()> {
    let tensors = tensors.iter().map(|(spec, tensor)| {
        let values = match tensor {
            StateTensor::Numbers(tensor) => {
                TensorValues::F32(Box::new(|| values(spec, tensor.clone())))
            }
            StateTensor::Bytes(bytes) => TensorValues::U8(bytes),
        };
        (spec.clone(), values)
    });
    save_tensors(path, tensors.collect())?;
    Ok(())
}

fn values(spec: &TensorSpec, tensor: Tensor<1>) -> Result<Vec<f32>, ModelError> {
    let data = tensor.into_data();
    let given = format!("numbers of type {:?}", data.dtype());
    data.try_into_vec().map_err(|_| ModelError::TensorValues {
        tensor: spec.name.clone(),
        given,
        expected: "32-bit floats".to_owned(),
    })
}

/// The tensors of a checkpoint's file.
struct TensorFile(Weights);

impl StateTensors for TensorFile {
    fn numbers(&self, spec: &TensorSpec) -> Result<Vec<f32>, MarlError> {
        Ok(self.0.read(&spec.name, &spec.shape)?)
    }

    fn bytes(&self, spec: &TensorSpec) -> Result<Vec<u8>, MarlError> {
        Ok(self.0.read_bytes(&spec.name, &spec.shape)?)
    }
}

fn sync_folder(path: &Path) -> Result<()> {
    if cfg!(unix) {
        File::open(path)?.sync_all()?;
    }
    Ok(())
}

/// The checkpoints of a run with their number of steps, in ascending order.
fn list(run: &Path) -> Result<Vec<(usize, PathBuf)>> {
    let folder = folder(run);
    let entries = match fs::read_dir(&folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(|| format!("reading {}", folder.display()))?,
    };
    let mut checkpoints = Vec::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let steps = name.to_str().and_then(|name| name.strip_prefix("step-"));
        if let Some(steps) = steps.and_then(|steps| steps.parse().ok()) {
            checkpoints.push((steps, entry.path()));
        }
    }
    checkpoints.sort();
    Ok(checkpoints)
}

/// Removes the checkpoints after this many steps, because the run will write them again. The newest is
/// removed first. Also removes the unfinished checkpoint that a killed run may have left, and the oldest
/// complete ones beyond the number to keep.
///
/// # Errors
/// If a checkpoint cannot be removed.
pub(crate) fn rewind_to(run: &Path, steps: usize, recipe: &Recipe) -> Result<()> {
    let all = list(run)?;
    let later = all.iter().rev().take_while(|(done, _)| *done > steps);
    later.into_iter().try_for_each(|(_, path)| remove(path))?;
    remove_unfinished(&folder(run))?;
    prune(run, recipe.checkpoints.keep)
}

/// The number of steps in a checkpoint's name.
pub(crate) fn steps(checkpoint: &Path) -> usize {
    let name = checkpoint.file_name().and_then(|name| name.to_str());
    let steps = name.and_then(|name| name.strip_prefix("step-"));
    steps.and_then(|steps| steps.parse().ok()).unwrap_or(0)
}

/// Where to resume a run from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ResumeFrom {
    /// The newest checkpoint, or the start if the run has no checkpoint.
    Newest,
    /// The checkpoint with this name.
    Named(String),
    /// The start of the run.
    Start,
}

impl std::str::FromStr for ResumeFrom {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "start" => Self::Start,
            name => Self::Named(name.to_owned()),
        })
    }
}

/// Finds the checkpoint to resume from; `None` is the start of the run.
///
/// # Errors
/// If there is no checkpoint with that name.
pub(crate) fn find(run: &Path, from: &ResumeFrom) -> Result<Option<PathBuf>> {
    let all = list(run)?;
    match from {
        ResumeFrom::Start => Ok(None),
        ResumeFrom::Newest => Ok(all.last().map(|(_, path)| path.clone())),
        ResumeFrom::Named(requested) => {
            // An empty name must be excluded, because every path ends with it.
            let checkpoint = all
                .iter()
                .find(|(_, path)| !requested.is_empty() && path.ends_with(requested));
            let names: Vec<String> = all.iter().map(|(steps, _)| name(*steps)).collect();
            let (_, path) = checkpoint.ok_or_else(|| {
                anyhow!(
                    "{} has no checkpoint `{requested}`; `--from` accepts: {}",
                    run.display(),
                    [names, vec!["start".to_owned()]].concat().join(", ")
                )
            })?;
            Ok(Some(path.clone()))
        }
    }
}

/// A checkpoint whose state has been read. Only [`Checkpoint::restore`] reads its tensors.
pub(crate) struct Checkpoint<'a> {
    run: &'a Path,
    path: &'a Path,
    state: State,
    /// How the resumed run updates weights.
    updates: Updates,
}

impl<'a> Checkpoint<'a> {
    /// Opens the checkpoint at `path` for a run with this recipe.
    ///
    /// # Errors
    /// If the checkpoint is damaged, or was made with another recipe or version. The message says which of
    /// these it is, and what to resume from instead.
    pub(crate) fn open(
        run: &'a Path,
        path: &'a Path,
        recipe: &Recipe,
        changeable: &Changeable,
    ) -> Result<Self> {
        let state = read_state(path)
            .and_then(|state| {
                check_settings(&state.settings, &settings(&recipe.to_ron()), changeable)?;
                Ok(state)
            })
            .with_context(|| way_out(run, path))?;
        Ok(Self {
            run,
            path,
            state,
            updates: recipe.updates.clone(),
        })
    }

    /// How far the run had come when the checkpoint was written.
    pub(crate) fn position(&self) -> &Position {
        &self.state.position
    }

    /// Opens the files of the run and checks that they still begin as they did when the checkpoint was made.
    ///
    /// # Errors
    /// Names the file that has changed, and what to resume from instead.
    pub(crate) fn open_records(&self) -> Result<RunDirectory> {
        let Position {
            steps,
            file_lengths,
            ..
        } = self.state.position;
        let directory = RunDirectory::open(self.run, file_lengths);
        // Other errors, such as that of a locked file, would not go away with an earlier checkpoint.
        if let Err(error) = &directory
            && !matches!(error, ReportError::Changed { .. })
        {
            return Ok(directory?);
        }
        let outcome = directory.and_then(|run| run.check(steps, file_lengths).map(|()| run));
        outcome.with_context(|| way_out(self.run, self.path))
    }

    /// Restores the team and the algorithm.
    ///
    /// # Errors
    /// If tensors are damaged or do not fit. The message names them, and what to resume from instead. After an
    /// error, the team must not be used.
    pub(crate) fn restore(&self, team: &mut Team, algorithm: &mut dyn Algorithm) -> Result<()> {
        let (parts, saved) = (team.ranks().grid().parts, 1 + self.state.other_parts.len());
        ensure!(
            parts == saved,
            "the checkpoint {} holds the agents in {saved} part(s), but now they are divided into {parts}: set \
             `parallel.replicas` to the number of ranks divided by {saved}, and start a multiple of {saved} ranks",
            self.path.display()
        );
        self.read_tensors(team, algorithm)
            .with_context(|| way_out(self.run, self.path))
    }

    fn read_tensors(&self, team: &mut Team, algorithm: &mut dyn Algorithm) -> Result<()> {
        let (ranks, size) = (team.ranks(), team.size());
        let part = ranks.part();
        let saved_names = self.state.agents.get(ranks.agents(size));
        ensure!(
            self.state.agents.len() == size && saved_names == Some(&names(team)),
            "{} is damaged: its agents are not those of its recipe",
            self.path.join(STATE).display()
        );
        for agent in team.iter_mut() {
            let tensors = Weights::open(&self.path.join(tensor_file(&agent.name)))?;
            agent.model.replace_trainable(&mut |spec: &TensorSpec| {
                tensors.read(&spec.name, &spec.shape)
            })?;
        }
        let tensors = TensorFile(Weights::open(&self.path.join(algorithm_file(part)))?);
        let values = match part.checked_sub(1) {
            None => &self.state.algorithm,
            Some(other) => &self.state.other_parts[other],
        };
        let saved = SavedState::new(values, &tensors, &self.updates);
        algorithm
            .restore(team, &saved)
            .context("the state of the algorithm does not fit")
    }
}

/// Tells the user what to do if a checkpoint, or a record that belongs to it, cannot be used.
fn way_out(run: &Path, path: &Path) -> String {
    let all = list(run).unwrap_or_default();
    let previous = all.iter().rev().find(|(done, _)| *done < steps(path));
    let alternative = match previous {
        Some((steps, _)) => format!("use the one before it: resume with `--from {}`", name(*steps)),
        None => "no earlier one is kept, so the only other way is to resume with `--from start`, which trains all \
                 steps again, removes the run's checkpoints and replaces its agents"
            .to_owned(),
    };
    format!(
        "the checkpoint {} cannot be used; if a file was changed, put it back as it was; otherwise {alternative}",
        path.display()
    )
}

/// The largest `state.ron`, in bytes. The file also contains the groups in the agents' buffers.
const MAX_STATE_BYTES: u64 = 4 << 30;

fn read_state(path: &Path) -> Result<State> {
    let file = path.join(STATE);
    let text = read_text(&file, MAX_STATE_BYTES)?
        .with_context(|| format!("{} does not exist", file.display()))?;
    let damaged = || format!("{} is damaged", file.display());
    let header: Header = ron_options().from_str(&text).with_context(damaged)?;
    ensure!(
        [FORMAT, FORMAT_OF_PARTS].contains(&header.format),
        "it was written by {} polyphony (format {}; this one reads {FORMAT} and {FORMAT_OF_PARTS})",
        if header.format > FORMAT_OF_PARTS {
            "a newer"
        } else {
            "an older"
        },
        header.format
    );
    ron_options().from_str(&text).with_context(damaged)
}

/// Refuses a checkpoint that was made with another recipe. A setting that only one of the two has is ignored:
/// another version of the program may have added it.
fn check_settings(
    checkpoint: &FlatSettings,
    recipe: &FlatSettings,
    changeable: &Changeable,
) -> Result<()> {
    if let Some((path, value)) = changeable.forbidden_change(checkpoint, recipe) {
        bail!(
            "it was made with a different recipe than the run's recipe.ron: `{path}` was {value}, and is {} now",
            recipe[path]
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Device};

    use super::*;

    #[test]
    fn a_tensor_that_does_not_fit_its_specification_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let tensor = Tensor::<1>::from_data([1.0_f32, 2.0], &Device::flex());
        let spec = |length| TensorSpec {
            name: "writer.moments".to_owned(),
            shape: vec![length],
        };
        let rows = [
            ("fits", 2, tensor.clone(), None),
            (
                "long",
                3,
                tensor.clone(),
                Some("it has 2 values, but must have 3"),
            ),
            (
                "other",
                2,
                tensor.cast(DType::BF16),
                Some("it has numbers of type BF16, but must have 32-bit floats"),
            ),
        ];
        for (name, length, tensor, expected) in rows {
            let path = folder.path().join(name);
            let outcome = write_tensors(&path, &[(spec(length), tensor.into())]);
            let message = outcome.err().map(|error| error.to_string());
            match (message, expected) {
                (None, None) => {}
                (Some(message), Some(expected)) => {
                    let expected = format!("tensor `writer.moments` cannot be saved: {expected}");
                    assert!(message.starts_with(&expected), "{message}");
                }
                (message, _) => panic!("{name}: {message:?}"),
            }
        }
    }
}
