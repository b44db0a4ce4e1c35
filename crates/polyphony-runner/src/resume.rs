//! Resumes a run that was stopped: finds its checkpoint, and checks what may be changed.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, Result, ensure};
use polyphony_marl::{Communicator, RankGroup};
use polyphony_report::{FileLengths, RunDirectory, check_training_run};

use serde::{Deserialize, Serialize};

use crate::{
    changeable::Changeable,
    checkpoint::{self, Checkpoint, Position},
    info,
    observer::Observer,
    prepare::Prepared,
    ranks::{self, agree, check_same_run, from_first},
    recipe::Recipe,
    records::{Records, shared_path},
    registry::Registry,
    saved_recipe::run_recipe,
    stop::Stop,
    train::{Session, Trained, Unfinished},
};

/// Resumes a run that was stopped, as if it had never stopped. `overrides` of the form `path=value` may
/// change only settings that do not affect the steps that are done: `steps`, `checkpoints`, `long_prompts`,
/// `updates.logprob_tolerance`, `updates.max_skipped_updates`, and how the environment and the data sets run on
/// the machine (their operational keys). The number of replicas may change; the number of parts into which the agents
/// are divided may not, since each part saves the state of its own agents. `world` connects the ranks, as in
/// [`train`](crate::train()).
///
/// # Errors
/// As [`train`](crate::train()), and if the run is complete, its checkpoint cannot be used, its records have
/// changed since the checkpoint, or an override would contradict the steps that are done.
pub fn resume(
    registry: &Registry,
    path: &Path,
    from: &checkpoint::ResumeFrom,
    overrides: &[String],
    world: &Arc<dyn Communicator>,
    stop: &Stop,
    observer: &mut dyn Observer,
) -> Result<Trained> {
    let everyone = RankGroup::of(Arc::clone(world));
    // Ranks may have been started in different directories, and a shared file system may show them different lists of
    // checkpoints. Rank 0 decides.
    let path = &shared_path(&everyone, path)?;
    let read = || {
        let before = run_recipe(registry, path, &[])?;
        let planned = before.steps;
        let recipe = run_recipe(registry, path, overrides)?;
        let changeable = Changeable::of(registry, &recipe)?;
        changeable.check(&before, &recipe)?;
        let algorithm = registry.read_algorithm(&recipe.algorithm)?.settings;
        recipe.validate_for_training(algorithm.as_ref())?;
        Ok((planned, recipe, changeable, algorithm))
    };
    let (planned, recipe, changeable, algorithm) = agree(&everyone, read())?;
    check_same_run(&everyone, "resume", &recipe)?;
    // All files of the run are checked before models are read or anything is changed.
    let start: StartingPoint = from_first(&everyone, || {
        check_training_run(path).context("there is nothing to resume")?;
        find_checkpoint(path, from, &recipe)
    })?;
    let open = || {
        let checkpoint = match &start.checkpoint {
            None => None,
            Some(checkpoint) => Some(Checkpoint::open(path, checkpoint, &recipe, &changeable)?),
        };
        let run = match (&checkpoint, everyone.rank()) {
            (None, 0) => Some(RunDirectory::open(path, FileLengths::default())?),
            (Some(checkpoint), 0) => Some(checkpoint.open_records()?),
            _ => None,
        };
        Ok((checkpoint, run))
    };
    let (checkpoint, run) = agree(&everyone, open())?;
    let mut run = Records::open(everyone, run)?;
    let prepared = Prepared::for_training(registry, &recipe, algorithm, world, observer)?;
    let ranks = ranks::info(world.as_ref(), prepared.team.agents.ranks());
    let info = info::run_info(registry, &recipe, &prepared, ranks)?;
    let mut session = Session::new(&recipe, prepared)?;
    let position = match checkpoint {
        None => Position::default(),
        Some(checkpoint) => {
            session.restore(&checkpoint)?;
            checkpoint.position().clone()
        }
    };
    run.on_first(|run| {
        // In this order, a run that is killed here can still be resumed from its newest checkpoint.
        checkpoint::rewind_to(path, position.steps, &recipe)?;
        run.truncate(position.file_lengths)?;
        run.save_recipe(&recipe.to_ron())?;
        run.save_info(&info)?;
        session.save_environment(run)
    })?;
    warn_of_changes(&recipe, planned, &position, start.last_evaluated_step);
    log::info!(
        "resuming {} after step {}; later records are made again",
        path.display(),
        position.steps
    );
    session
        .run_to_end(&mut run, position, stop, observer)
        .with_context(|| Unfinished::of(&run))
}

/// Where a run is resumed, and the step of its last evaluation.
#[derive(Serialize, Deserialize)]
struct StartingPoint {
    checkpoint: Option<PathBuf>,
    last_evaluated_step: Option<usize>,
}

fn find_checkpoint(
    path: &Path,
    from: &checkpoint::ResumeFrom,
    recipe: &Recipe,
) -> Result<StartingPoint> {
    let checkpoint = checkpoint::find(path, from)?;
    ensure!(
        checkpoint.is_some()
            || *from == checkpoint::ResumeFrom::Start
            || polyphony_report::trained_steps(path)?.is_none_or(|steps| steps == 0),
        "{} has agents, but no checkpoint to resume from: `--from start` trains again from the start and \
         replaces them",
        path.display()
    );
    let done = checkpoint.as_deref().map_or(0, checkpoint::steps);
    ensure!(
        done <= recipe.steps,
        "{done} steps of the run in {} are done. --steps counts the steps of the whole run: give a larger \
         number to continue, or go back with --from",
        path.display()
    );
    // Unreadable records are not an error here: a line that was half written when the run was killed is cut off
    // later.
    let last_evaluated_step = polyphony_report::evaluations(path)
        .unwrap_or_default()
        .into_iter()
        .rev()
        .find_map(|evaluation| evaluation.step);
    ensure!(
        done < recipe.steps || last_evaluated_step != Some(done),
        "the run in {} is complete: {done} steps are done. --steps counts the steps of the whole run: give \
         a larger number to continue",
        path.display()
    );
    Ok(StartingPoint {
        checkpoint,
        last_evaluated_step,
    })
}

/// Warns about the side effects of a new number of steps for a run that was planned for `planned` steps.
fn warn_of_changes(
    recipe: &Recipe,
    planned: usize,
    position: &Position,
    last_evaluated_step: Option<usize>,
) {
    if recipe.steps != planned && recipe.updates.schedule != polyphony_marl::LrSchedule::Constant {
        log::warn!(
            "--steps changes the schedule of the learning rate: until here it was planned for {planned} steps, \
             from here on for {}. A run that is planned for {0} steps from the start learns differently, \
             although `compare` puts both in one row",
            recipe.steps
        );
    }
    let is_repeated = position.steps > 0 && last_evaluated_step == Some(position.steps);
    if is_repeated && !recipe.evaluation.is_due(position.steps) {
        log::warn!(
            "the evaluation after step {} is dropped: it was the last one, and a run of {} steps has none \
             there",
            position.steps,
            recipe.steps
        );
    }
}
