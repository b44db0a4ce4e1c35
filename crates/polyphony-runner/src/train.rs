//! A training run, from recipe to saved agents.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use anyhow::{Context as _, Result};
use polyphony_episode::{Environment, Metric, MetricKey, MetricValue};
use polyphony_marl::{
    Algorithm, Communicator, EnvironmentSpec, Progress, Protocol, RankGroup, Rollout, Step,
    TrainingConfig, train_step,
};
use polyphony_report::{EvaluationRecord, RunDirectory, check_free};

use crate::{
    checkpoint::{self, Checkpoint, Position},
    evaluate::EvaluationSession,
    info, memory,
    observer::{BestAction, Event, Observer},
    prepare::Prepared,
    ranks::{self, agree, any, check_same_run},
    recipe::Recipe,
    records::Records,
    registry::Registry,
    stop::Stop,
    task_sampler::TaskSampler,
    team::{AGENTS, save_agents},
};

/// The result of a training run.
#[derive(Clone, Debug)]
pub struct Trained {
    /// The run's directory.
    pub run: PathBuf,
    /// The number of steps that are done.
    pub steps: usize,
    /// The recipe of the run.
    pub recipe: Recipe,
    /// The names of the environment's roles.
    pub roles: Vec<String>,
    /// The evaluation before training; `None` if a stop was requested before this evaluation was complete.
    pub before: Option<EvaluationRecord>,
    /// The evaluation after the last step; `None` if a stop was requested before this evaluation was complete.
    pub after: Option<EvaluationRecord>,
    /// Where each agent was saved.
    pub agents: Vec<PathBuf>,
}

/// A run started but did not finish. The error that ended the run has this value as its context, so that a
/// caller can explain how to resume the run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the run in {} did not finish", .run.display())]
pub struct Unfinished {
    /// The run's directory.
    pub run: PathBuf,
}

impl Unfinished {
    pub(crate) fn of(records: &Records) -> Self {
        Self {
            run: records.path().to_owned(),
        }
    }
}

/// Trains the agents of a recipe and saves them in a new directory: `run_dir`, or the first free one below
/// `runs`.
///
/// All checks are made before the run directory is created. If `stop` is requested, the run ends after the
/// current step and can be resumed.
///
/// `world` connects the ranks that train the team together; a process that trains alone passes [`SingleRank`]. Every
/// rank calls this function, with the same recipe. Rank 0 writes the records.
///
/// # Errors
/// If data or models cannot be obtained, a step fails, or the run directory cannot be written. Errors after the
/// run directory was created have the context [`Unfinished`]. If one rank fails, all of them do; those that have
/// no error of their own return [`MarlError::OtherRank`].
///
/// [`SingleRank`]: polyphony_marl::SingleRank
/// [`MarlError::OtherRank`]: polyphony_marl::MarlError::OtherRank
pub fn train(
    registry: &Registry,
    recipe: &Recipe,
    run_dir: Option<&Path>,
    world: &Arc<dyn Communicator>,
    stop: &Stop,
    observer: &mut dyn Observer,
) -> Result<Trained> {
    let everyone = RankGroup::of(Arc::clone(world));
    let check = || {
        let recipe = recipe.with_resolved_precision()?;
        let algorithm = registry.read_algorithm(&recipe.algorithm)?.settings;
        recipe.validate_for_training(algorithm.as_ref())?;
        if let (Some(path), 0) = (run_dir, everyone.rank()) {
            check_free(path)?;
        }
        Ok((recipe, algorithm))
    };
    let (recipe, algorithm) = agree(&everyone, check())?;
    check_same_run(&everyone, "train", &recipe)?;
    let prepared = Prepared::for_training(registry, &recipe, algorithm, world, observer)?;
    let ranks = ranks::info(world.as_ref(), prepared.team.agents.ranks());
    let info = info::run_info(registry, &recipe, &prepared, ranks)?;
    let mut session = Session::new(&recipe, prepared)?;
    let mut records = Records::create(everyone, run_dir, &recipe.to_ron(), &info)?;
    log::info!("writing the run to {}", records.path().display());
    records.on_first(|run| session.save_environment(run))?;
    session
        .run_to_end(&mut records, Position::default(), stop, observer)
        .with_context(|| Unfinished::of(&records))
}

/// A team that is being trained.
pub(crate) struct Session<'a> {
    recipe: &'a Recipe,
    config: TrainingConfig,
    prepared: Prepared,
    algorithm: Box<dyn Algorithm>,
}

impl<'a> Session<'a> {
    pub(crate) fn new(recipe: &'a Recipe, prepared: Prepared) -> Result<Self> {
        let config = recipe.training_config();
        let team = &prepared.team.agents;
        let spec = EnvironmentSpec::of_team(team, prepared.environment.as_ref());
        let algorithm = prepared.algorithm.build(team, &spec, &config);
        let algorithm = agree(team.ranks().world(), algorithm.map_err(Into::into))?;
        Ok(Self {
            recipe,
            config,
            prepared,
            algorithm,
        })
    }

    fn world(&self) -> &RankGroup {
        self.prepared.team.agents.ranks().world()
    }

    fn environment(&self) -> &dyn Environment {
        self.prepared.environment.as_ref()
    }

    /// Saves the environment's description, if it has one: for example, the version of the Python that runs
    /// programs.
    pub(crate) fn save_environment(&self, run: &RunDirectory) -> Result<()> {
        match self.environment().description() {
            Some(description) => Ok(run.save_environment(&description)?),
            None => Ok(()),
        }
    }

    /// Restores the team and the algorithm from a checkpoint.
    pub(crate) fn restore(&mut self, checkpoint: &Checkpoint<'_>) -> Result<()> {
        let team = &mut self.prepared.team.agents;
        let restored = checkpoint.restore(team, self.algorithm.as_mut());
        agree(self.world(), restored)
    }

    /// Trains from a position to the end, saves the agents, and evaluates them.
    pub(crate) fn run_to_end(
        &mut self,
        run: &mut Records,
        mut position: Position,
        stop: &Stop,
        observer: &mut dyn Observer,
    ) -> Result<Trained> {
        let failure = match self.train_steps(run, &mut position, stop, observer) {
            Ok(()) => None,
            // No step was recorded, so there is nothing to save.
            Err(error) if position.steps == 0 => return Err(error),
            Err(error) => Some(error),
        };
        // The agents are saved before anything else can fail, and even if a step has failed, so that nothing
        // that they learned is lost.
        // A failed step may have updated some of the agents, so the number of their steps is then not known.
        let trained_steps = failure.is_none().then_some(position.steps);
        log::info!("saving the agents in {}", run.path().join(AGENTS).display());
        let agent_paths = save_agents(run.path(), &self.prepared.team, trained_steps);
        if let Some(failure) = failure {
            match agent_paths {
                Ok(agents) => log::warn!("the agents in their last state are in {}", list(&agents)),
                Err(error) => log::error!("the agents could not be saved either: {error:#}"),
            }
            return Err(failure);
        }
        let (agents, steps) = (agent_paths?, position.steps);
        self.evaluate(run, steps, stop, observer)?;
        let read = |run: &mut RunDirectory| Ok(polyphony_report::evaluations(run.path())?);
        let evaluations = run.on_first(read)?.unwrap_or_default();
        let evaluation_at = |step| {
            let mut all = evaluations.iter();
            all.find(|evaluation| evaluation.step == Some(step))
                .cloned()
        };
        let roles = self.environment().roles().iter();
        Ok(Trained {
            run: run.path().to_owned(),
            steps,
            recipe: self.recipe.clone(),
            roles: roles.map(|role| role.name.clone()).collect(),
            before: evaluation_at(0),
            after: evaluation_at(steps),
            agents,
        })
    }

    /// Runs the steps from a position until all are done or `stop` is requested. Updates the position after
    /// every step, so that it is correct after an error too.
    fn train_steps(
        &mut self,
        run: &mut Records,
        position: &mut Position,
        stop: &Stop,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        let task_sampler = TaskSampler {
            seed: self.recipe.seed,
            tasks: self.prepared.train.len(),
            per_step: self.recipe.tasks_per_step,
        };
        let start = position.steps;
        if start == 0 {
            self.evaluate(run, 0, stop, observer)?;
        }
        observer.on_event(Event::PhaseStarted {
            title: "training",
            length: self.recipe.steps,
            done: start,
        });
        let mut checkpointed_steps = start;
        let gradient_steps = self.algorithm.gradient_steps();
        while position.steps < self.recipe.steps && !any(self.world(), stop.is_requested())? {
            let done = position.steps;
            if done > 0 && self.recipe.evaluation.is_due(done) {
                // A run that is killed during the evaluation resumes here and repeats the evaluation.
                if checkpointed_steps < done {
                    self.save(run, position)?;
                    checkpointed_steps = done;
                }
                self.evaluate(run, done, stop, observer)?;
                if any(self.world(), stop.is_requested())? {
                    break;
                }
            }
            let mut rollout_done = false;
            let outcome = self.step(
                run,
                &task_sampler.step(done),
                position,
                &mut rollout_done,
                observer,
            );
            if let Err(error) = outcome {
                // A step that fails before its rollout is done has not changed the agents. They are still in
                // the state that the previous step left, so this state can be saved.
                if !rollout_done && checkpointed_steps < done {
                    match self.save(run, position) {
                        Ok(()) => {
                            log::warn!("the checkpoint after step {done} keeps what was learned")
                        }
                        Err(error) => log::error!("no checkpoint could be written: {error:#}"),
                    }
                }
                return Err(error.context(format!("step {}", done + 1)));
            }
            if position.steps.is_multiple_of(self.recipe.checkpoints.every) {
                self.save(run, position)?;
                checkpointed_steps = position.steps;
            }
        }
        if checkpointed_steps < position.steps {
            self.save(run, position)?;
        }
        observer.on_event(Event::PhaseEnded);
        if position.steps > start && self.algorithm.gradient_steps() == gradient_steps {
            log::warn!(
                "no agent has changed its weights: for example, all responses to each prompt earned the \
                 same reward (see `zero_advantage_fraction` in metrics.jsonl), or `updates.buffer` was never \
                 full"
            );
        }
        Ok(())
    }

    /// Runs and records one step on the tasks with these indices. Sets `rollout_done` before any agent changes.
    fn step(
        &mut self,
        run: &mut Records,
        tasks: &[usize],
        position: &mut Position,
        rollout_done: &mut bool,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        let started = Instant::now();
        let agents = self.prepared.team.agents.size();
        let step = train_step(
            &mut self.prepared.team.agents,
            self.algorithm.as_mut(),
            self.prepared.environment.as_ref(),
            self.prepared.train.batch(tasks),
            &self.config,
            position.steps,
            &mut |progress| {
                *rollout_done |= progress == Progress::RolloutDone;
                observer.on_event(Event::StepProgress { progress, agents });
            },
        )?;
        position.steps += 1;
        let metrics = all_metrics(&step, started.elapsed().as_secs_f64());
        let steps = position.steps;
        run.on_first(|run| Ok(run.record(steps, &metrics, step.rollout.lines())?))?;
        let best = best_action(self.environment(), &step.rollout);
        let is_better = |best: &BestAction| {
            let previous = position.best.as_ref();
            previous.is_none_or(|previous| best.reward > previous.reward)
        };
        if let Some(best) = best.filter(is_better) {
            position.best = Some(best);
        }
        observer.on_event(Event::StepDone {
            done: position.steps,
            mean_return: step.metric("return").unwrap_or(f64::NAN),
            best: position.best.as_ref(),
            turns: self.environment().horizon().get(),
            tokens_per_sec: step.metric("timing.tokens_per_sec").unwrap_or(f64::NAN),
        });
        Ok(())
    }

    /// Writes a checkpoint of the run's current state.
    fn save(&self, run: &mut Records, position: &mut Position) -> Result<()> {
        position.file_lengths = run.on_first(|run| Ok(run.sync()?))?.unwrap_or_default();
        checkpoint::save(
            run.path(),
            self.recipe,
            &self.prepared.team.agents,
            self.algorithm.as_ref(),
            position,
        )
    }

    /// Evaluates the team after this many steps and records the result, unless the evaluation is stopped.
    fn evaluate(
        &self,
        run: &mut Records,
        steps: usize,
        stop: &Stop,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        let title = format!("held-out tasks after {steps} steps");
        let session = EvaluationSession {
            prepared: &self.prepared,
            recipe: self.recipe,
            // As in training, no agent reads what another has answered.
            protocol: &Protocol::parallel(),
            step: Some(steps),
        };
        let Some(evaluation) = session.run(&title, stop, observer)? else {
            return Ok(());
        };
        log::info!(
            "return on held-out tasks ({}) after {steps} steps: {}",
            evaluation.tasks,
            evaluation.mean_return
        );
        run.on_first(|run| Ok(run.record_evaluation(&evaluation)?))?;
        Ok(())
    }
}

/// The metrics of a step in the order in which they are written, including those that only the run knows.
fn all_metrics(step: &Step, secs: f64) -> Vec<Metric> {
    let metric = |name, value: MetricValue, unit, meaning: &'static str| {
        Metric::new(MetricKey::new(name), value, unit, meaning)
    };
    let step_secs = metric("timing.step_secs", secs.into(), "s", "The whole step");
    let peak_memory = metric(
        "timing.peak_memory_mib",
        memory::peak_mib().into(),
        "MiB",
        "The most memory that the process has held so far",
    );
    let (timing, mut metrics): (Vec<_>, Vec<_>) = step
        .metrics
        .iter()
        .cloned()
        .partition(|metric| metric.key.is_timing());
    metrics.push(step_secs);
    metrics.extend(timing);
    metrics.push(peak_memory);
    metrics
}

/// The joint action with the highest reward in a step.
fn best_action(environment: &dyn Environment, rollout: &Rollout) -> Option<BestAction> {
    let nodes = rollout.all_nodes().into_iter();
    let branches = nodes.flat_map(|node| &node.branches);
    let best = branches.max_by(|a, b| a.reward.total().total_cmp(&b.reward.total()))?;
    let is_nonzero = |part: &&String| best.reward.part(part).is_some_and(|value| value != 0.0);
    Some(BestAction {
        reward: best.reward.total(),
        last_part: environment
            .reward_parts()
            .iter()
            .rev()
            .find(is_nonzero)
            .cloned(),
    })
}

fn list(paths: &[PathBuf]) -> String {
    let paths: Vec<String> = paths
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    paths.join(", ")
}
