//! A pool of workers, each a solver and a judge that serve one program at a time.

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
    refusal::Refusal,
    self_check,
    spawner::Spawner,
    trial::{self, Bounds, Fault, Findings, Pair},
    verdicts::gravest,
};
use crate::{
    Counters, Interpreter, Isolation, ProgramResult, Program, SandboxError, SelfTest, SandboxConfig, Tests,
    Tier, Verdict,
};

/// How often a program is run before the host gives up.
const TRIES: u32 = 3;

/// The workers of a pool, and what they have in common.
pub(crate) struct Engine {
    settings: SandboxConfig,
    interpreter: Interpreter,
    tier: Tier,
    report: SelfTest,
    layers: Layers,
    cores: u32,
    spawner: Spawner,
    idle: Mutex<Vec<Worker>>,
    freed: Condvar,
    counters: Mutex<Counters>,
}

/// A pair, or the place for one that is yet to be started.
type Worker = Option<Pair>;

impl Engine {
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
                    engine.report.refused = refused;
                    return Ok(engine);
                }
                Err(refusal) => {
                    match &refusal {
                        Refusal::Launch(_) => log::debug!("no {tier} tier: {refusal}"),
                        Refusal::SelfTest { .. } => {
                            log::warn!(
                                "the {tier} tier starts, but does not do its work: {refusal}"
                            );
                        }
                    }
                    refused.push((tier, refusal.to_string()));
                    // The last one stands for all, if it is the only one to be had.
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

    /// Starts in one tier, with these layers, and tests it.
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
            report: SelfTest {
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
        engine.report.start_seconds = started.elapsed().as_secs_f64();
        engine.report.steps = self_check::run(tier, |program, tests| {
            engine.attempt(&mut first, program, tests)
        })?;
        let idle = engine
            .idle
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        // The others start when they are first needed, on the time of who needs them.
        idle.resize_with(settings.workers() - 1, || None);
        idle.push(first);
        Ok(engine)
    }

    pub(crate) fn judge(
        &self,
        program: &Program,
        tests: &Tests,
    ) -> Result<ProgramResult, SandboxError> {
        let mut reason = String::new();
        for attempt in 0..TRIES {
            if attempt > 0 {
                log::warn!("the sandbox runs a program again, since {reason}");
                lock(&self.counters).infrastructure_retries += 1;
                self.pause(attempt);
            }
            let mut worker = self.take();
            let started = Instant::now();
            match self.attempt(&mut worker.pair, program, tests) {
                Ok(findings) => return Ok(self.result(findings, started)),
                Err(Fault::Tests(reason)) => return Err(SandboxError::Tests { reason }),
                Err(Fault::Host(seen)) => reason = seen,
            }
        }
        Err(SandboxError::Infrastructure {
            tries: TRIES,
            reason,
        })
    }

    /// Lets what may be short for the moment become free: at the last try the time that a program
    /// which takes all of it has at most.
    fn pause(&self, attempt: u32) {
        let longest = Duration::from_secs(self.settings.limits.wall_secs);
        thread::sleep(longest * attempt / (TRIES - 1) / (TRIES - attempt));
    }

    pub(crate) fn workers(&self) -> NonZero<usize> {
        // A pool without workers is refused at its start.
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

    pub(crate) fn report(&self) -> &SelfTest {
        &self.report
    }

    /// One try. After a failure of the host the pair is gone, and the next try starts a new one.
    fn attempt(
        &self,
        worker: &mut Worker,
        program: &Program,
        tests: &Tests,
    ) -> Result<Findings, Fault> {
        let mut pair = match worker.take() {
            Some(pair) => pair,
            None => self
                .spawner
                .pair()
                .map_err(|error| Fault::Host(error.to_string()))?,
        };
        let limits = &self.settings.limits;
        let bounds = Bounds {
            limits,
            cores: self.cores,
            may_kill_itself: !self.layers.contain(Layer::Seccomp),
        };
        let found = trial::judge(&mut pair, bounds, program, tests);
        if !matches!(found, Err(Fault::Host(_))) {
            *worker = Some(pair);
        }
        found
    }

    fn result(&self, findings: Findings, started: Instant) -> ProgramResult {
        let seconds = started.elapsed().as_secs_f64();
        let verdicts = || findings.asserts.iter().map(|outcome| &outcome.verdict);
        let mut counters = lock(&self.counters);
        counters.runs += 1;
        counters.seconds += seconds;
        let any = |verdict| u64::from(verdicts().any(|own| *own == verdict));
        counters.timeouts += any(Verdict::Timeout);
        counters.out_of_memory += any(Verdict::OutOfMemory);
        counters.violations += any(Verdict::Violation);
        ProgramResult {
            verdict: gravest(verdicts()),
            syntax_error: findings.syntax_error,
            asserts: findings.asserts,
            seconds,
            tier: self.tier,
        }
    }

    /// Waits for a free worker.
    fn take(&self) -> Taken<'_> {
        let mut idle = lock(&self.idle);
        loop {
            if let Some(pair) = idle.pop() {
                return Taken { engine: self, pair };
            }
            idle = self
                .freed
                .wait(idle)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// A worker in use. It goes back when this is dropped, whatever happens.
struct Taken<'a> {
    engine: &'a Engine,
    pair: Worker,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        lock(&self.engine.idle).push(self.pair.take());
        self.engine.freed.notify_one();
    }
}

/// What is locked here is whole between any two statements, so a panic elsewhere does no harm.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
