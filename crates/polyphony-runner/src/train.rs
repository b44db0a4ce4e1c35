//! A training run, from recipe to saved agents.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use anyhow::{Context as _, Result, ensure};
use polyphony_env::{Expert, Source};
use polyphony_episode::{Environment, Task};
use polyphony_marl::{
    IndexedTask, Node, Playable, Protocol, Rollout, StepConfig, StepReport, playable_tasks,
    train_step,
};
use polyphony_sandbox::Pool;

use crate::{
    checkpoint::{self, Position},
    environment::Ready,
    evaluation, interrupt, memory,
    metrics::{self, Outside},
    progress::{Display, NO_LEVEL},
    recipe::Recipe,
    run_directory::{self, RunDirectory},
    run_files,
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
    if let Some(path) = run_dir {
        run_directory::check_new(path)?;
    }
    let mut prepared = Prepared::new(recipe)?;
    let mut run = RunDirectory::create(run_dir, recipe)?;
    log::info!("writing the run to {}", run.path().display());
    if let Some(pool) = &prepared.pool {
        run.save_sandbox(pool)?;
    }
    prepared.play(recipe, &mut run, Position::default())
}

/// Goes on with a run that was stopped, as if it had not been; with other `steps` to go on to, if any.
///
/// # Errors
/// As [`train`], and if the run is complete or its checkpoint cannot be used.
pub(crate) fn resume(path: &Path, from: &checkpoint::From, steps: Option<usize>) -> Result<()> {
    let mut recipe = run_files::recipe(path, &[])?;
    let planned = recipe.steps;
    recipe.steps = steps.unwrap_or(planned);
    recipe.validate().context("checking --steps")?;
    recipe.validate_for_training()?;
    run_files::check_training_run(path, "there is nothing to go on with")?;
    let checkpoint = checkpoint::find(path, from)?;
    ensure!(
        checkpoint.is_some()
            || *from == checkpoint::From::Start
            || run_files::trained_steps(path)?.is_none_or(|steps| steps == 0),
        "{} has agents, but no checkpoint to go on from; `--from start` trains anew, in place of all that \
         is there",
        path.display()
    );
    let done = checkpoint.as_deref().map_or(0, checkpoint::steps);
    ensure!(
        done <= recipe.steps,
        "{done} steps of the run in {} are done. --steps is the number of the whole run's steps: give more \
         than that to go on, or go back with --from",
        path.display()
    );
    // What was being written when the run was killed is cut off below.
    let judged = run_files::evaluations(path)
        .unwrap_or_default()
        .into_iter()
        .rev()
        .find_map(|last| last.step);
    ensure!(
        done < recipe.steps || judged != Some(done),
        "the run in {} is complete: {done} steps are done. --steps is the number of the whole run's \
         steps: give more than that to go on",
        path.display()
    );

    let mut prepared = Prepared::new(&recipe)?;
    let position = match &checkpoint {
        None => Position::default(),
        Some(checkpoint) => checkpoint::load(path, checkpoint, &recipe, &mut prepared.team)?,
    };
    let mut run = RunDirectory::open(path, position.lengths)?;
    // In this order a run that is killed meanwhile still goes on from its newest checkpoint.
    checkpoint::go_back_to(path, position.steps, &recipe)?;
    run.cut(position.lengths)?;
    run.save_recipe(&recipe)?;
    if let Some(pool) = &prepared.pool {
        run.save_sandbox(pool)?;
    }
    if recipe.steps != planned && recipe.updates.schedule != polyphony_marl::Schedule::Constant {
        log::warn!(
            "--steps changes the schedule of the learning rate: it was planned for {planned} steps until here, \
             and is for {} from here on. A run that is planned for {0} from the beginning learns otherwise, \
             although `compare` puts both in one row",
            recipe.steps
        );
    }
    if position.steps > 0
        && judged == Some(position.steps)
        && !recipe.evaluation.is_due(position.steps)
    {
        log::warn!(
            "the evaluation after step {} is dropped: the run ended there until now, and one of {} steps has \
             none there",
            position.steps,
            recipe.steps
        );
    }
    log::info!(
        "going on with {} after step {}; what was recorded later is made anew",
        path.display(),
        position.steps
    );
    prepared.play(&recipe, &mut run, position)
}

/// What a run plays with, all of it checked.
struct Prepared {
    environment: Box<dyn Environment>,
    /// Where the environment runs programs, if it does.
    pool: Option<Arc<Pool>>,
    /// The outside model that it asks, if it does.
    expert: Option<Arc<Expert>>,
    tasks: Vec<Task>,
    held_out: Vec<Task>,
    team: Team,
}

impl Prepared {
    fn new(recipe: &Recipe) -> Result<Self> {
        interrupt::listen()?;
        let Ready {
            environment,
            pool,
            expert,
        } = recipe.environment.build()?;
        let tasks = load_tasks(&recipe.train, "train", environment.as_ref())?;
        ensure!(
            recipe.tasks_per_step <= tasks.len(),
            "`tasks_per_step` is {}, but `train` has only {} tasks",
            recipe.tasks_per_step,
            tasks.len()
        );
        let mut held_out = load_tasks(&recipe.held_out, "held_out", environment.as_ref())?;
        held_out.truncate(recipe.evaluation.tasks);
        let models = Models::open(recipe, environment.as_ref())?;
        let mut members = models.members(environment.roles().len());
        let available = memory::available();
        // Once before weights are read, which alone may be too much, and once with all that is known.
        memory::check(&members, recipe, available)?;
        let team = models.load(recipe)?;
        let playable = check_tasks(recipe, environment.as_ref(), &team, &tasks, "train")?;
        let judged = check_tasks(recipe, environment.as_ref(), &team, &held_out, "held_out")?;
        for member in &mut members {
            let prompts = [&playable, &judged].map(|tasks| &tasks.longest_prompts);
            let own = prompts
                .iter()
                .flat_map(|longest| &longest[member.roles.clone()]);
            member.prompt = own.copied().max();
        }
        memory::tell(&members, recipe, available);
        memory::check(&members, recipe, available)?;
        if recipe.sampling.truncates() {
            log::warn!(
                "sampling with top-p or top-k biases the update, which differentiates the whole \
                 distribution; leave both out unless the aim is to reproduce a published run"
            );
        }
        Ok(Self {
            environment,
            pool,
            expert,
            tasks,
            held_out,
            team,
        })
    }

    /// Trains from a position to the end, and saves and tells what came of it.
    fn play(&mut self, recipe: &Recipe, run: &mut RunDirectory, position: Position) -> Result<()> {
        let trained = self.train_steps(recipe, run, &position);
        // Saved before anything else can fail, and also when a step has failed: what was learned until
        // then is not lost.
        let done = trained.as_ref().ok().copied();
        let saved = run.save_agents(&self.team, done);
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
        self.judge(recipe, run, steps)?;
        let evaluations = run_files::evaluations(run.path())?;
        let at = |step| {
            evaluations
                .iter()
                .find(|evaluation| evaluation.step == Some(step))
        };
        summary::tell(Finished {
            run: run.path(),
            steps,
            of: recipe.steps,
            before: at(0),
            after: at(steps),
            recipe,
            roles: self.environment.roles(),
            agents: &agents,
        });
        Ok(())
    }

    /// Runs the steps from a position until all are done or the user interrupts; returns how many are
    /// done.
    fn train_steps(
        &mut self,
        recipe: &Recipe,
        run: &mut RunDirectory,
        start: &Position,
    ) -> Result<usize> {
        let schedule = Schedule {
            seed: recipe.seed,
            tasks: self.tasks.len(),
            per_step: recipe.tasks_per_step,
        };
        if start.steps == 0 {
            self.judge(recipe, run, 0)?;
        }
        let mut display = Display::start("training", recipe.steps);
        display.resume(start.steps, start.best(self.environment.as_ref()));
        let mut saved = start.steps;
        let mut done = start.steps;
        let mut gradient_steps = 0;
        while done < recipe.steps && !interrupt::requested() {
            if done > 0 && recipe.evaluation.is_due(done) {
                // From which a run that goes on judges it again, whatever happens meanwhile.
                if saved < done {
                    self.keep(recipe, run, done, &display)?;
                    saved = done;
                }
                display.suspend(|| self.judge(recipe, run, done))?;
                if interrupt::requested() {
                    break;
                }
            }
            let started = Instant::now();
            let before = self.asked();
            let played = indexed(&self.tasks, schedule.step(done));
            let environment = self.environment.as_ref();
            let (report, rollout) = run_step(
                recipe,
                environment,
                &played,
                &mut self.team,
                done,
                &mut display,
            )
            .with_context(|| format!("step {}", done + 1))?;
            let seconds = started.elapsed().as_secs_f64();
            done += 1;
            let updates = report.agents.iter().map(|agent| agent.update.steps);
            gradient_steps += updates.sum::<usize>();
            let outside = self.asked().since(&before);
            let object = metrics::step_object(done, &report, &outside, seconds);
            run.record(done, &object, &rollout)?;
            display.step_done(done, &report, best_action(environment, &rollout));
            if done.is_multiple_of(recipe.checkpoints.every) {
                self.keep(recipe, run, done, &display)?;
                saved = done;
            }
        }
        if saved < done {
            self.keep(recipe, run, done, &display)?;
        }
        display.finish();
        if done > start.steps && gradient_steps == 0 {
            log::warn!(
                "no agent has changed its weights: in every step all responses to a prompt earned the \
                 same, or `updates.buffer` was never full; `zero_advantage_share` and \
                 `truncated_share` in metrics.jsonl say more"
            );
        }
        Ok(done)
    }

    /// What the environment has asked of others so far.
    fn asked(&self) -> Outside {
        Outside {
            sandbox: self.pool.as_deref().map(Pool::counters),
            expert_retries: self.expert.as_deref().map(Expert::retries),
        }
    }

    /// Writes a checkpoint of where the run stands now.
    fn keep(
        &self,
        recipe: &Recipe,
        run: &mut RunDirectory,
        steps: usize,
        display: &Display,
    ) -> Result<()> {
        let best = display.best();
        let position = Position {
            steps,
            lengths: run.sync()?,
            best: best.map(|(reward, level)| (reward, level.to_owned())),
        };
        checkpoint::save(run.path(), recipe, &self.team, &position)
    }

    /// Evaluates the team after so many steps and records what came of it, unless the user interrupted.
    fn judge(&self, recipe: &Recipe, run: &mut RunDirectory, steps: usize) -> Result<()> {
        let held_out = &self.held_out;
        let title = format!("held-out tasks after {steps} steps");
        let mut display = Display::start(&title, held_out.len());
        let evaluation = evaluation::evaluate(
            &self.team,
            self.environment.as_ref(),
            held_out,
            recipe,
            Protocol::Parallel,
            Some(steps),
            &mut |done| display.advance_to(done),
        )?;
        display.finish();
        let Some(evaluation) = evaluation else {
            return Ok(());
        };
        log::info!(
            "return on held-out tasks ({}) after {steps} steps: {}",
            evaluation.tasks,
            evaluation.returns
        );
        run.record_evaluation(&evaluation)
    }
}

/// Where `cargo xtask fetch humaneval` puts its problems.
const HUMAN_EVAL: &str = "data/HumanEval.jsonl.gz";

/// The tasks of the data set under a recipe's key. The environment has looked at each of them, so
/// that data for another one is found before any model is obtained.
pub(crate) fn load_tasks(
    source: &Source,
    key: &str,
    environment: &dyn Environment,
) -> Result<Vec<Task>> {
    let context = || match source {
        Source::Problems { path, .. } if path == Path::new(HUMAN_EVAL) && !path.exists() => {
            format!(
                "loading `{key}`: `cargo xtask fetch humaneval` brings HumanEval's problems into \
             data/HumanEval.jsonl.gz"
            )
        }
        _ => format!("loading `{key}`"),
    };
    let tasks = source.load().with_context(context)?;
    for task in &tasks {
        let context = || format!("loading `{key}`, which must hold tasks for the `environment`");
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
    let playable = playable_tasks(&team.agents, environment, &all, &recipe.responses())
        .with_context(|| format!("checking `{key}`"))?;
    ensure!(
        playable.tasks > 0,
        "`{key}`: not one of {} tasks fits into the context with `max_new_tokens` {}: lower that, or take \
         shorter tasks",
        tasks.len(),
        recipe.max_new_tokens
    );
    Ok(playable)
}

/// Some of the tasks with their indices.
pub(crate) fn indexed(
    tasks: &[Task],
    indices: impl IntoIterator<Item = usize>,
) -> Vec<IndexedTask<'_>> {
    let task = |index| IndexedTask {
        index,
        task: &tasks[index],
    };
    indices.into_iter().map(task).collect()
}

/// The highest reward of any joint action, and the last part of it that is not 0: the level that
/// it reached.
fn best_action(environment: &dyn Environment, rollout: &Rollout) -> Option<(f64, &'static str)> {
    let nodes = rollout.nodes.iter().flat_map(Node::nodes);
    let branches = nodes.flat_map(|node| &node.branches);
    let best = branches.max_by(|a, b| a.reward.total().total_cmp(&b.reward.total()))?;
    let reached = |part: &&&'static str| best.reward.part(part).is_some_and(|value| value != 0.0);
    let level = environment.reward_parts().iter().rev().find(reached);
    Some((best.reward.total(), level.copied().unwrap_or(NO_LEVEL)))
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
        responses: recipe.responses(),
        steps: recipe.steps,
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
