//! A training run, from recipe to saved agents.

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context as _, Result, ensure};
use polyphony_env::Source;
use polyphony_episode::{Environment, Task};
use polyphony_marl::{
    IndexedTask, Playable, Rollout, RolloutConfig, StepConfig, StepReport, playable_tasks,
    train_step,
};
use polyphony_model::StreamKey;
use polyphony_sandbox::Pool;

use crate::{
    environment::Ready,
    evaluation::{self, Evaluation},
    interrupt, memory, metrics,
    progress::Display,
    recipe::Recipe,
    run_directory::RunDirectory,
    schedule::Schedule,
    summary::{self, Finished},
    team::{Models, Team},
};

/// Trains a recipe, saves the agents, and tells on standard error what came of it.
///
/// Everything that can be refused is refused before the run directory is made.
///
/// # Errors
/// If data or models cannot be had, a step fails, or the run directory cannot be written.
pub fn train(recipe: &Recipe, run_dir: Option<&Path>) -> Result<()> {
    recipe.validate_for_training()?;
    interrupt::listen()?;
    RunDirectory::check(run_dir)?;
    let Ready { environment, pool } = recipe.environment.build()?;
    let tasks = load_tasks(&recipe.train, "train", environment.as_ref())?;
    ensure!(
        recipe.updates.buffer <= tasks.len(),
        "`updates.buffer` is {}, but `train` has only {} tasks",
        recipe.updates.buffer,
        tasks.len()
    );
    let mut held_out = load_tasks(&recipe.held_out, "held_out", environment.as_ref())?;
    held_out.truncate(recipe.evaluation.tasks);
    let models = Models::open(recipe, environment.as_ref())?;
    let mut members = models.members(environment.roles().len());
    let available = memory::available();
    // Once before weights are read, which alone may be too much, and once with all that is known.
    memory::check(&members, recipe, available)?;
    let mut team = models.load(recipe)?;
    let playable = check_tasks(recipe, environment.as_ref(), &team, &tasks, "train")?;
    check_tasks(recipe, environment.as_ref(), &team, &held_out, "held_out")?;
    for member in &mut members {
        let prompts = &playable.longest_prompts[member.roles.clone()];
        member.prompt = prompts.iter().copied().max();
    }
    memory::tell(&members, recipe, available);
    memory::check(&members, recipe, available)?;
    let mut run = RunDirectory::create(run_dir, recipe)?;
    log::info!("writing the run to {}", run.path().display());
    if let Some(pool) = &pool {
        run.save_sandbox(pool)?;
    }
    if recipe.sampling.truncates() {
        log::warn!(
            "sampling with top-p or top-k biases the update, which differentiates the whole \
             distribution; leave both out unless the aim is to reproduce a published run"
        );
    }

    let before = evaluate("before", &team, environment.as_ref(), &held_out, recipe)?;
    run.save_evaluations(before.as_ref(), None)?;
    let playing = Playing {
        environment: environment.as_ref(),
        pool: pool.as_deref(),
        tasks: &tasks,
    };
    let trained = train_steps(recipe, &playing, &mut team, &mut run);
    // Saved before anything else can fail, and also when a step has failed: what was learned until
    // then is not lost.
    let saved = run.save_agents(&team);
    let steps = match trained {
        Ok(steps) => steps,
        Err(error) => {
            match saved {
                Ok(agents) => log::warn!("the agents as they were are in {}", list(&agents)),
                Err(error) => log::error!("the agents could not be saved either: {error:#}"),
            }
            return Err(error);
        }
    };
    let agents = saved?;
    let after = evaluate("after", &team, environment.as_ref(), &held_out, recipe)?;
    run.save_evaluations(before.as_ref(), after.as_ref())?;
    summary::tell(Finished {
        run: run.path(),
        steps,
        before: before.as_ref(),
        after: after.as_ref(),
        roles: environment.roles(),
        agents: &agents,
    });
    Ok(())
}

/// The tasks of the data set under a recipe's key. The environment has looked at each of them, so
/// that data for another one is found before any model is obtained.
pub(crate) fn load_tasks(
    source: &Source,
    key: &str,
    environment: &dyn Environment,
) -> Result<Vec<Task>> {
    let context = || match source {
        Source::Problems { path, .. } if !path.exists() => format!(
            "loading `{key}`: `cargo xtask fetch humaneval` brings HumanEval's problems into \
             data/HumanEval.jsonl.gz"
        ),
        _ => format!("loading `{key}`"),
    };
    let tasks = source.load().with_context(context)?;
    for task in &tasks {
        environment.start(task).with_context(context)?;
    }
    Ok(tasks)
}

/// Lets the team look at every task: one that cannot be played is found now, not after hours.
pub(crate) fn check_tasks(
    recipe: &Recipe,
    environment: &dyn Environment,
    team: &Team,
    tasks: &[Task],
    key: &str,
) -> Result<Playable> {
    let all: Vec<IndexedTask<'_>> = indexed(tasks, 0..tasks.len());
    let playable = playable_tasks(
        &team.agents,
        environment,
        &all,
        &recipe.evaluation_rollout(),
    )
    .with_context(|| format!("checking `{key}`"))?;
    ensure!(
        playable.tasks > 0,
        "`{key}`: not one of {} tasks fits into the context",
        tasks.len()
    );
    Ok(playable)
}

fn indexed(tasks: &[Task], indices: impl IntoIterator<Item = usize>) -> Vec<IndexedTask<'_>> {
    let task = |index| IndexedTask {
        index,
        task: &tasks[index],
    };
    indices.into_iter().map(task).collect()
}

/// Evaluates with a display; `None` if the user interrupted.
fn evaluate(
    when: &str,
    team: &Team,
    environment: &dyn Environment,
    held_out: &[Task],
    recipe: &Recipe,
) -> Result<Option<Evaluation>> {
    let mut display = Display::start(&format!("held-out tasks {when} training"), held_out.len());
    let evaluation = evaluation::evaluate(team, environment, held_out, recipe, &mut |done| {
        display.advance_to(done);
    })?;
    display.finish();
    if let Some(evaluation) = &evaluation {
        log::info!(
            "return on {} held-out tasks {when} training: {:.3} ± {:.3}",
            evaluation.tasks,
            evaluation.mean_return,
            evaluation.standard_error
        );
    }
    Ok(evaluation)
}

/// The highest reward of any joint action, and the last part of it that is not 0: the level that
/// it reached.
fn best_action(environment: &dyn Environment, rollout: &Rollout) -> Option<(f64, &'static str)> {
    let branches = rollout.nodes.iter().flat_map(|node| &node.branches);
    let best = branches.max_by(|a, b| a.reward.total().total_cmp(&b.reward.total()))?;
    let reached = |part: &&&'static str| best.reward.part(part).is_some_and(|value| value != 0.0);
    let level = environment.reward_parts().iter().rev().find(reached);
    Some((best.reward.total(), level.copied().unwrap_or("none")))
}

/// What is played in training.
struct Playing<'a> {
    environment: &'a dyn Environment,
    /// Where the environment runs programs, if it does.
    pool: Option<&'a Pool>,
    tasks: &'a [Task],
}

/// Runs the steps until all are done or the user interrupts; returns how many were run.
fn train_steps(
    recipe: &Recipe,
    playing: &Playing<'_>,
    team: &mut Team,
    run: &mut RunDirectory,
) -> Result<usize> {
    let Playing {
        environment,
        pool,
        tasks,
    } = *playing;
    let schedule = Schedule {
        seed: recipe.seed,
        tasks: tasks.len(),
        per_step: recipe.updates.buffer,
    };
    let mut display = Display::start("training", recipe.steps);
    for step in 0..recipe.steps {
        if interrupt::requested() {
            display.finish();
            return Ok(step);
        }
        let start = Instant::now();
        let before = pool.map(Pool::counters);
        let played = indexed(tasks, schedule.step(step));
        let (report, rollout) = run_step(recipe, environment, &played, team, step, &mut display)
            .with_context(|| format!("step {}", step + 1))?;
        let seconds = start.elapsed().as_secs_f64();
        let sandbox = pool
            .zip(before)
            .map(|(pool, before)| pool.counters().since(&before));
        let object = metrics::step_object(step + 1, &report, sandbox.as_ref(), seconds);
        run.record(step + 1, &object, &rollout)?;
        display.step_done(step + 1, &report, best_action(environment, &rollout));
    }
    display.finish();
    Ok(recipe.steps)
}

fn run_step(
    recipe: &Recipe,
    environment: &dyn Environment,
    tasks: &[IndexedTask<'_>],
    team: &mut Team,
    step: usize,
    display: &mut Display,
) -> Result<(StepReport, Rollout)> {
    let config = StepConfig {
        algorithm: recipe.algorithm.clone(),
        updates: recipe.updates.clone(),
        sampling: recipe.sampling.clone(),
        max_new_tokens: recipe.max_new_tokens,
        rollout_weights: recipe.rollout_weights,
        long_prompts: recipe.long_prompts,
        key: recipe.stream_key(step as u32),
    };
    let agents = team.agents.len();
    let done = train_step(
        &mut team.agents,
        environment,
        tasks,
        &config,
        &mut |progress| {
            display.within_step(progress, agents);
        },
    )?;
    Ok((done.report, done.rollout))
}

fn list(paths: &[PathBuf]) -> String {
    let paths: Vec<String> = paths
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    paths.join(", ")
}

impl Recipe {
    /// The random numbers of a step.
    fn stream_key(&self, step: u32) -> StreamKey {
        StreamKey {
            seed: self.seed,
            step,
            ..StreamKey::default()
        }
    }

    /// How a team is sampled to be judged.
    pub(crate) fn evaluation_rollout(&self) -> RolloutConfig {
        RolloutConfig {
            samples: self.evaluation.samples,
            joint_mode: self.algorithm.joint_mode,
            sampling: self.sampling.clone(),
            max_new_tokens: self.max_new_tokens,
            weights: self.rollout_weights,
            long_prompts: self.long_prompts,
            // Streams of its own: no training step has this number.
            key: self.stream_key(u32::MAX),
        }
    }
}
