//! The workers of a pool. Each is a solver and a judge, which run one program at a time.

use std::{
    num::NonZero,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use super::{
    interpreter::{self, Installation},
    launch::{LaunchError, Launcher},
    layers::{Layer, Layers},
    program_run::{self, Pair, RunContext, RunError, RunOutcome},
    refusal::Refusal,
    self_check,
    spawner::Spawner,
    verdicts::most_severe,
};
use crate::{
    Counters, Interpreter, Isolation, Program, ProgramResult, SandboxConfig, SandboxError,
    SelfTest, Tests, Tier, Verdict,
};

/// A program is run this many times before the host gives up.
const TRIES: u32 = 3;

/// The workers of a pool and their common state.
pub(crate) struct Engine {
    settings: SandboxConfig,
    interpreter: Interpreter,
    tier: Tier,
    self_test: SelfTest,
    layers: Layers,
    cores: u32,
    spawner: Spawner,
    idle: Mutex<Vec<WorkerSlot>>,
    freed: Condvar,
    counters: Mutex<Counters>,
}

/// A pair; `None` if one must be started first, because none was started yet or because the host failed.
type WorkerSlot = Option<Pair>;

impl Engine {
    /// Starts in the strongest tier that `settings` allow and this machine supports. An [`Isolation`] is
    /// what the caller asks for, a [`Tier`] is what it gets, and a tier consists of [`Layers`].
    pub(crate) fn start(settings: &SandboxConfig) -> Result<Self, SandboxError> {
        settings.check()?;
        let installation = interpreter::find(settings.interpreter.as_deref())?;
        let tiers: &[Tier] = match settings.isolation {
            Isolation::Strongest => &[Tier::Full, Tier::Landlock],
            Isolation::Landlock => &[Tier::Landlock],
            Isolation::Off => &[Tier::Off],
        };
        let mut refused = Vec::new();
        for &tier in tiers {
            match Self::start_in(settings, &installation, tier, &Layers::of(tier)) {
                Ok(mut engine) => {
                    engine.self_test.refused = refused;
                    return Ok(engine);
                }
                Err(refusal) => {
                    match &refusal {
                        Refusal::Launch(_) => log::debug!("no {tier} tier: {refusal}"),
                        Refusal::SelfTest { .. } => {
                            log::warn!(
                                "the {tier} tier starts, but does not confine programs: {refusal}"
                            );
                        }
                    }
                    refused.push((tier, refusal.to_string()));
                    // If no tier starts, the error is made from the refusals of all tiers.
                    if tiers.last() == Some(&tier) {
                        return Err(refusal.into_error(tier, &refused));
                    }
                }
            }
        }
        Err(SandboxError::Isolation {
            reason: "no tier was tried".to_owned(),
            help: String::new(),
        })
    }

    /// Starts in one tier with these layers, and runs the self-test.
    pub(super) fn start_in(
        settings: &SandboxConfig,
        installation: &Installation,
        tier: Tier,
        layers: &Layers,
    ) -> Result<Self, Refusal> {
        let launcher = Launcher::new(installation, &settings.limits, layers)?;
        let spawner = Spawner::new(launcher).map_err(|error| LaunchError {
            step: "starting a thread".to_owned(),
            reason: error.to_string(),
        })?;
        let mut engine = Self {
            settings: settings.clone(),
            interpreter: installation.interpreter.clone(),
            tier,
            self_test: SelfTest {
                tier,
                refused: Vec::new(),
                start_seconds: 0.0,
                steps: Vec::new(),
            },
            layers: layers.clone(),
            cores: thread::available_parallelism()
                .map_or(1, NonZero::get)
                .try_into()
                .unwrap_or(u32::MAX),
            spawner,
            idle: Mutex::new(Vec::new()),
            freed: Condvar::new(),
            counters: Mutex::new(Counters::default()),
        };
        let started = Instant::now();
        let mut first = Some(engine.spawner.pair()?);
        engine.self_test.start_seconds = started.elapsed().as_secs_f64();
        engine.self_test.steps = self_check::run(tier, |program, tests| {
            engine.attempt(&mut first, program, tests)
        })?;
        let idle = engine
            .idle
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        // The other workers start when they are first needed; the caller that needs them waits.
        idle.resize_with(settings.workers() - 1, || None);
        idle.push(first);
        Ok(engine)
    }

    pub(crate) fn run(
        &self,
        program: &Program,
        tests: &Tests,
    ) -> Result<ProgramResult, SandboxError> {
        let mut reason = String::new();
        for attempt in 0..TRIES {
            if attempt > 0 {
                log::warn!("the sandbox runs a program again because {reason}");
                lock(&self.counters).infrastructure_retries += 1;
                self.pause(attempt);
            }
            let mut worker = self.take();
            let started = Instant::now();
            match self.attempt(&mut worker.pair, program, tests) {
                Ok(outcome) => return Ok(self.result(outcome, started)),
                Err(RunError::Tests(reason)) => return Err(SandboxError::Tests { reason }),
                Err(RunError::Host(failure)) => reason = failure,
            }
        }
        Err(SandboxError::Infrastructure {
            tries: TRIES,
            reason,
        })
    }

    /// Waits so that other programs can release memory or processes: a quarter of an assert's wall-clock
    /// limit before the second try, and the whole limit before the third, because a program that holds all
    /// memory or processes may run that long.
    fn pause(&self, attempt: u32) {
        let max = Duration::from_secs(self.settings.limits.wall_secs);
        thread::sleep(max * attempt / (TRIES - 1) / (TRIES - attempt));
    }

    pub(crate) fn workers(&self) -> NonZero<usize> {
        // A pool without workers was refused at the start.
        NonZero::new(self.settings.workers()).unwrap_or(NonZero::<usize>::MIN)
    }

    pub(crate) fn tier(&self) -> Tier {
        self.tier
    }

    pub(crate) fn interpreter(&self) -> &Interpreter {
        &self.interpreter
    }

    pub(crate) fn counters(&self) -> Counters {
        *lock(&self.counters)
    }

    pub(crate) fn self_test(&self) -> &SelfTest {
        &self.self_test
    }

    /// One try. After a failure of the host the worker's pair is gone, and its next try starts a new one.
    fn attempt(
        &self,
        worker: &mut WorkerSlot,
        program: &Program,
        tests: &Tests,
    ) -> Result<RunOutcome, RunError> {
        let mut pair = match worker.take() {
            Some(pair) => pair,
            None => self
                .spawner
                .pair()
                .map_err(|error| RunError::Host(error.to_string()))?,
        };
        let limits = &self.settings.limits;
        let context = RunContext {
            limits,
            cores: self.cores,
            may_kill_itself: !self.layers.contain(Layer::Seccomp),
        };
        let outcome = program_run::run(&mut pair, context, program, tests);
        if !matches!(outcome, Err(RunError::Host(_))) {
            *worker = Some(pair);
        }
        outcome
    }

    fn result(&self, outcome: RunOutcome, started: Instant) -> ProgramResult {
        let seconds = started.elapsed().as_secs_f64();
        let verdicts = || outcome.asserts.iter().map(|assert| &assert.verdict);
        let mut counters = lock(&self.counters);
        counters.runs += 1;
        counters.seconds += seconds;
        let has_any = |wanted| u64::from(verdicts().any(|verdict| *verdict == wanted));
        counters.timeouts += has_any(Verdict::Timeout);
        counters.out_of_memory += has_any(Verdict::OutOfMemory);
        counters.violations += has_any(Verdict::Violation);
        ProgramResult {
            verdict: most_severe(verdicts()),
            syntax_error: outcome.syntax_error,
            asserts: outcome.asserts,
            seconds,
            tier: self.tier,
        }
    }

    /// Waits for a free worker.
    fn take(&self) -> BusyWorker<'_> {
        let mut idle = lock(&self.idle);
        loop {
            if let Some(pair) = idle.pop() {
                return BusyWorker { engine: self, pair };
            }
            idle = self
                .freed
                .wait(idle)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// A worker in use. Dropping it returns the worker to the pool, whatever happens.
struct BusyWorker<'a> {
    engine: &'a Engine,
    pair: WorkerSlot,
}

impl Drop for BusyWorker<'_> {
    fn drop(&mut self) {
        lock(&self.engine.idle).push(self.pair.take());
        self.engine.freed.notify_one();
    }
}

/// Locks a mutex. A poisoned lock is harmless: no panic leaves the locked data half changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
